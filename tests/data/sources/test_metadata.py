"""metadata.jsonl and metadata.csv: which images they list, and names in both Unicode forms."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from chrysalis.conditions.conditioner import Conditioner, LabelEmbedding, TokenEncoder
from chrysalis.conditions.request import Request
from chrysalis.data.sources.folder import FolderSource, folder_data
from chrysalis.data.store import open_folder, open_set
from chrysalis.system.errors import UserError

SHAPE = (3, 16, 16)
NFC, NFD = "caf\u00e9", "cafe\u0301"


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def three(tmp_path):
    for i in range(3):
        image(tmp_path / f"{i}.png", i)
    return tmp_path


def placed(source: FolderSource) -> list[str]:
    return [str(row.place) for row in source.rows]


def test_a_csv_file_equals_a_jsonl_file(three):
    rows = [
        {"file_name": "0.png", "label": "a", "text": 'a "red", square', "span": 1.5, "wild": True},
        {"file_name": "2.png", "label": "b", "text": None, "span": None, "wild": False},
    ]
    (three / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    by_lines = open_set(folder_data(str(three), vector_columns=["span", "wild"]).source, SHAPE, "crop")
    (three / "metadata.jsonl").unlink()
    (three / "metadata.csv").write_text(
        'file_name,label,text,span,wild\r\n0.png,a,"a ""red"", square",1.5,True\r\n2.png,b,,,false\r\n',
        encoding="utf-8-sig",
        newline="",
    )
    by_cells = open_set(folder_data(str(three), vector_columns=["span", "wild"]).source, SHAPE, "crop")
    for found in (by_lines, by_cells):
        assert [name[-5:] for name in found.names] == ["0.png", "2.png"]
        assert (found.value_names["label"], found.columns["label"].tolist()) == (("a", "b"), [0, 1])
        assert found.columns["caption"] == ('a "red", square', "")
        np.testing.assert_array_equal(found.columns["vector"], [[1.5, 1], [np.nan, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\n0.png,a\n", r"no column file_name: its first line is image, label"),
        ("file_name;label\n0.png;a\n", r"no column file_name.*separate columns by commas"),
        ("file_name,text\n0.png,a\n1.png,red, wide\n", r"line 3 has 3 values for 2 columns"),
        ('file_name,text\n0.png,"a\n', r"line 2 is not CSV"),
        ("file_name,text\n../x.png,a\n", r"line 2 is not an object with text values and a file_name inside the folder"),
        ("file_name,span\n0.png,wide\n", r"line 2: span, listed in data\.vector_columns, must be a number"),
        ("file_name,span\n", r"metadata\.csv lists no images: write one line per image, or remove the file"),
        ("", r"metadata\.csv lists no images"),
    ],
)
def test_errors_in_a_csv_file_are_reported(three, text, message):
    (three / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        folder_data(str(three), vector_columns=["span"] if "span" in text else [])


def test_an_empty_listing_is_not_a_folder_without_images(three):
    (three / "metadata.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match=r"metadata\.jsonl lists no images"):
        FolderSource(str(three))


def test_two_listings_in_one_folder_are_refused(three):
    (three / "metadata.jsonl").write_text('{"file_name": "0.png"}')
    (three / "metadata.csv").write_text("file_name\n0.png\n")
    with pytest.raises(UserError, match=r"has metadata\.csv and metadata\.jsonl: remove one of them"):
        FolderSource(str(three))


def test_listings_of_subfolders_name_files_from_there(tmp_path):
    for place in ("a/0.png", "a/1.png", "b/deep/0.png", "c/0.png"):
        image(tmp_path / place)
        image(tmp_path / "masks" / place)
    (tmp_path / "a" / "metadata.jsonl").write_text('{"file_name": "1.png", "label": "x"}')
    (tmp_path / "b" / "metadata.csv").write_text("file_name,label\ndeep/0.png,y\n")
    masks = str(tmp_path / "masks")
    source = folder_data(str(tmp_path), masks=masks).source
    assert placed(source) == ["a/1.png", "b/deep/0.png"]
    assert [row.columns["label"] for row in source.rows] == ["x", "y"]
    assert [str(row.columns["mask"]) for row in source.rows] == [f"{masks}/a/1.png", f"{masks}/b/deep/0.png"]
    assert source.note == "2 images are not listed in metadata.jsonl and not used: 0.png, 0.png."
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "c/0.png"}')
    source = folder_data(str(tmp_path), masks=masks).source
    assert placed(source) == ["c/0.png"]
    assert source.note.endswith("Ignored in favor of metadata.jsonl: a/metadata.jsonl, b/metadata.csv.")


def test_images_that_are_not_listed_are_counted_and_masks_are_not(three):
    image(three / "masks" / "0.png")
    (three / "again.png").symlink_to(three / "0.png")
    (three / "metadata.jsonl").write_text('{"file_name": "again.png", "mask_file_name": "masks/0.png"}')
    assert FolderSource(str(three)).note == "2 images are not listed in metadata.jsonl and not used: 1.png, 2.png."
    lines = [json.dumps({"file_name": f"{i}.png"}) for i in range(3)]
    (three / "metadata.jsonl").write_text("\n".join(lines))
    assert FolderSource(str(three)).note.startswith("1 image is not listed in metadata.jsonl and not used: 0.png")


def test_several_labels_an_image_are_columns(three):
    """A list is refused by its line; columns of booleans are a vector of ones and zeros."""
    line = {"file_name": "0.png", "tags": ["red", "wide"], "red": True, "wide": False}
    (three / "metadata.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"line 1: tags is a list.*column of true or false.*data\.vector_columns"):
        folder_data(str(three), label_column="tags")
    assert folder_data(str(three), vector_columns=["red", "wide"]).source.rows[0].columns["vector"] == (1.0, 0.0)


def test_a_list_of_captions_holds_alternatives(three):
    """As in a hub dataset; test_hub_source.py tests how one is chosen."""
    captions = [["a moth", " ", "a moth", None, "cafe\u0301"], ["one"], []]
    lines = [json.dumps({"file_name": f"{i}.png", "text": caption}) for i, caption in enumerate(captions)]
    (three / "metadata.jsonl").write_text("\n".join(lines))
    (three / "2.txt").write_text("beside it")
    assert open_set(FolderSource(str(three)), SHAPE, "crop").columns["caption"] == (
        ("a moth", " ", NFC),
        "one",
        "beside it",
    )
    lines[1] = json.dumps({"file_name": "1.png", "text": [["a", "list"]]})
    (three / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 2 is not an object with text values and a file_name inside the folder"):
        FolderSource(str(three))


def test_both_unicode_forms_of_a_name_are_one_label(tmp_path):
    image(tmp_path / NFD / "0.png", 0)
    image(tmp_path / NFC / "1.png", 1)
    image(tmp_path / "plain" / "2.png", 2)
    found = open_set(FolderSource(str(tmp_path)), SHAPE, "crop")
    assert found.value_names["label"] == (NFC, "plain")
    assert found.columns["label"].tolist().count(0) == 2
    # a model of an earlier version may know the decomposed form
    assert open_folder(found.folder, {"label": ("plain", NFD)}).columns["label"].tolist().count(1) == 2
    data = folder_data(str(tmp_path), image_size=16, batch_size=1)
    data.setup()
    data.use_labels(["plain", NFD])
    assert data.image_set.columns["label"].tolist().count(1) == 2


def test_files_captions_and_columns_are_found_in_the_other_unicode_form(tmp_path):
    assert unicodedata.normalize("NFC", NFD) == NFC != NFD
    image(tmp_path / "images" / NFC / f"{NFD}.png")
    image(tmp_path / "masks" / NFD / f"{NFC}.png")
    line = {"file_name": f"images/{NFD}/{NFC}.png", NFD: NFD}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    source = folder_data(str(tmp_path), masks=str(tmp_path / "masks"), label_column=NFC, caption_column=NFC).source
    (row,) = source.rows
    assert row.file.is_file()
    assert row.columns["mask"].is_file()
    assert (row.columns["label"], row.columns["caption"]) == (NFC, NFC)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "images" / NFC / f"{NFC}.txt").write_text(NFD, encoding="utf-8")
    source = FolderSource(str(tmp_path / "images"))
    assert source.read(0, SHAPE, "crop").columns["caption"] == NFC


@pytest.mark.parametrize("known", [NFC, NFD])
@pytest.mark.parametrize("name", [NFC, NFD])
def test_a_label_is_known_in_both_unicode_forms(known, name):
    conditioner = Conditioner({"label": {"names": ["plain", known], "dim": 4}}, 8)
    assert Request(conditioner, {"label": name}, "a model").values == {"label": [1]}
    assert LabelEmbedding(8, ["plain", known]).index(name) == 1
    with pytest.raises(ValueError, match="cafe"):
        LabelEmbedding(8, ["plain", known]).index("cafe")


def test_words_are_split_alike_in_both_unicode_forms():
    assert TokenEncoder.split(NFC.upper()) == TokenEncoder.split(NFD) == [NFC]
