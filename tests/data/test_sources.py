import io
import json

import datasets
import numpy as np
import pytest
from conftest import real_data, tiny_unet
from PIL import Image

from chrysalis.conditions.kinds.text import Text
from chrysalis.data.loaders import BatchDataset, Order
from chrysalis.data.sources import Drawn, Folder, Hub
from chrysalis.data.store import open_set
from chrysalis.system.errors import UserError

SIZE = (16, 16)


def write(path, colour="red", size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_folder_labels_are_its_subfolders(image_folder):
    images = open_set(Folder(str(image_folder)), SIZE, "crop")
    assert len(images) == 24
    assert set(images.label_names) == {p.name for p in image_folder.iterdir()}
    for name, label in zip(images.names, images.labels, strict=True):
        assert f"/{images.label_names[label]}/" in name


def test_metadata_gives_labels_captions_and_masks(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", "blue")
    write(tmp_path / "masks" / "a.png", "white")
    write(tmp_path / "masks" / "b.png", "black")
    write(tmp_path / "not listed.png")
    rows = [
        {"file_name": f"{n}.png", "label": f"is {n}", "text": f"the {n}", "mask_file_name": f"masks/{n}.png"}
        for n in "ab"
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    images = open_set(Folder(str(tmp_path)), SIZE, "crop")
    assert len(images) == 2
    assert images.captions == ("the a", "the b")
    assert images.label_names == ("is a", "is b")
    assert images.masks.mean(axis=(1, 2, 3)).tolist() == [255, 0]


@pytest.mark.parametrize("line", ['{"label": 3}', "not json", '{"file_name": "../outside.png"}', "[]"])
def test_a_bad_metadata_line_is_named(tmp_path, line):
    write(tmp_path / "set" / "a.png")
    write(tmp_path / "outside.png")
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line)
    with pytest.raises(UserError, match="line 2"):
        Folder(str(tmp_path / "set"))


def test_a_text_file_beside_a_picture_is_its_caption(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red square\n")
    assert open_set(Folder(str(tmp_path)), SIZE, "crop").captions == ("a red square",)


def test_unreadable_files_are_listed_left_out_and_untouched(tmp_path, capsys):
    for i in range(40):
        write(tmp_path / f"{i:02}.png", (i, i, i))
    broken = tmp_path / "broken one.jpg"
    broken.write_bytes(b"not an image")
    images = open_set(Folder(str(tmp_path)), SIZE, "crop")
    assert len(images) == 40
    assert "broken one.jpg" in capsys.readouterr().err
    assert broken.read_bytes() == b"not an image"
    assert images.images[:, 0].mean(axis=(1, 2)).tolist() == list(range(40))


def test_too_many_unreadable_files_stop_the_run(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 11 images cannot be read.*bad\.png"):
        open_set(Folder(str(tmp_path)), SIZE, "crop")


def test_a_truncated_picture_is_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "JPEG")
    for i in range(30):
        write(tmp_path / f"{i}.png")
    (tmp_path / "cut.jpg").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    assert [name.split("/")[-1] for name, _ in open_set(Folder(str(tmp_path)), SIZE, "crop").rejected] == ["cut.jpg"]


def test_a_loop_of_links_ends(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(Folder(str(tmp_path))) == 1


def test_the_cache_notices_a_changed_file(tmp_path):
    write(tmp_path / "a.png", "red")
    first = open_set(Folder(str(tmp_path)), SIZE, "crop").images[0, :, 0, 0].tolist()
    write(tmp_path / "a.png", "blue", (21, 21))
    second = open_set(Folder(str(tmp_path)), SIZE, "crop").images[0, :, 0, 0].tolist()
    assert (first, second) == ([255, 0, 0], [0, 0, 255])


def test_the_cache_is_complete_or_absent(tmp_path, monkeypatch):
    """A reader that dies halfway leaves nothing behind."""
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))

    class Dies(Drawn):
        def row_name(self, i):
            raise KeyboardInterrupt

        def read(self, i, size, resize):
            if i == 5:
                raise OSError("gone")
            return super().read(i, size, resize)

    with pytest.raises(KeyboardInterrupt):
        open_set(Dies("butterflies", 20), SIZE, "crop")
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def test_split_is_by_content_not_by_order_or_name(tmp_path):
    for i in range(60):
        write(tmp_path / "one" / f"{i:02}.png", (i, 0, 0))
        write(tmp_path / "two" / f"{59 - i:02}-renamed.png", (i, 0, 0))
    write(tmp_path / "two" / "a copy.png", (7, 0, 0))

    def validation(folder):
        images = open_set(Folder(str(tmp_path / folder)), SIZE, "crop")
        train, rows = images.split(0.2)
        assert sorted([*train, *rows]) == list(range(len(images)))
        return {int(images.images[i, 0, 0, 0]) for i in rows}, {int(images.images[i, 0, 0, 0]) for i in train}

    one, two = validation("one"), validation("two")
    assert one == two
    assert one[0].isdisjoint(one[1])
    assert 4 <= len(one[0]) <= 20


def test_a_hub_dataset_in_every_local_form(tmp_path):
    """Parquet with the columns of huggan/smithsonian_butterflies_subset, and save_to_disk's arrow."""
    images = [Image.new("RGB", (30, 20), (i * 20, 0, 0)) for i in range(6)]
    captions = [f"row {i}" for i in range(6)]
    features = datasets.Features(image=datasets.Image(), alt=datasets.Value("string"))
    dataset = datasets.Dataset.from_dict({"image": images, "alt": captions}, features=features)
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train.parquet")
    dataset.save_to_disk(tmp_path / "arrow")
    for folder in ("parquet", "arrow"):
        images = open_set(Hub(str(tmp_path / folder), caption_column="alt"), SIZE, "crop")
        assert images.images[:, 0, 8, 8].tolist() == [0, 20, 40, 60, 80, 100]
        assert images.captions == tuple(captions)
    with pytest.raises(UserError, match=r"data\.image_column=photo.*image, alt"):
        Hub(str(tmp_path / "parquet"), image_column="photo")


def conditional_hub(tmp_path):
    """Six rows: a red left part on blue, its mask, its conditioning image, and two measurements."""
    red = [Image.new("RGB", (30, 20), "blue") for _ in range(6)]
    masks, conditions = [Image.new("L", (30, 20)) for _ in red], [Image.new("RGB", (60, 40)) for _ in red]
    for i in range(6):
        red[i].paste("red", (0, 0, 9 + i, 20))
        masks[i].paste(255, (0, 0, 9 + i, 20))
        conditions[i].paste("lime", (0, 0, 18 + 2 * i, 40))
    columns = {
        "image": (red, datasets.Image()),
        "mask": ([*masks[:5], None], datasets.Image()),
        "edges": (conditions, datasets.Image()),
        "span": ([1.5, None, 2.0, 3.0, 4.0, 5.0], datasets.Value("float64")),
        "month": ([1, 2, 3, 4, 5, 6], datasets.Value("int8")),
        "sex": (["f"] * 6, datasets.Value("string")),
        "kind": ([0] * 6, datasets.ClassLabel(names=["a"])),
    }
    rows = datasets.Dataset.from_dict(
        {name: values for name, (values, _) in columns.items()},
        features=datasets.Features({name: feature for name, (_, feature) in columns.items()}),
    )
    rows.save_to_disk(tmp_path / "all")
    rows.select(range(5)).save_to_disk(tmp_path / "full")
    return tmp_path


def test_a_hub_dataset_with_masks_conditioning_images_and_measurements(tmp_path):
    conditional_hub(tmp_path)
    columns = {"mask_column": "mask", "conditioning_image_column": "edges", "vector_columns": ["span", "month"]}
    images = open_set(Hub(str(tmp_path / "full"), **columns), (20, 20), "crop")
    for i in range(5):
        inside = np.tile(np.arange(20) < 4 + i, (20, 1))  # five pixels are cropped away at the left
        assert ((images.images[i, 0] > 127) == inside).all()
        assert ((images.masks[i, 0] == 255) == inside).all()
        assert ((images.conditionings[i, 1] > 127) == inside).all()
    np.testing.assert_array_equal(images.vectors, [[1.5, 1], [np.nan, 2], [2, 3], [3, 4], [4, 5]])
    gap = open_set(Hub(str(tmp_path / "all"), **columns), (20, 20), "crop")
    assert gap.masks is None
    assert gap.without_mask == (f"{tmp_path / 'all'} row 5",)
    assert gap.conditionings.shape == (6, 3, 20, 20)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"mask_column": "masks"}, r"data\.mask_column=masks is not a column.*image, mask, edges"),
        ({"conditioning_image_column": "x"}, r"data\.conditioning_image_column=x is not a column"),
        ({"vector_columns": ["span", "x"]}, r"data\.vector_columns=x is not a column"),
        ({"vector_columns": ["sex"]}, r"data\.vector_columns=sex is not a column of numbers.*string"),
        ({"vector_columns": ["kind"]}, r"data\.vector_columns=kind is not a column of numbers.*ClassLabel"),
        ({"mask_column": "span"}, r"data\.mask_column=span is not a column of images"),
    ],
)
def test_a_hub_column_that_cannot_be_used_is_refused(tmp_path, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        Hub(str(conditional_hub(tmp_path) / "full"), **asked)


def test_a_list_of_captions_holds_alternatives_of_which_an_epoch_has_one(tmp_path):
    rows = {"image": [Image.new("RGB", (20, 20), (i, 0, 0)) for i in range(3)]}
    rows["text"] = [["a moth", "an insect", "a moth", None], ["one"], []]
    features = datasets.Features(image=datasets.Image(), text=datasets.List(datasets.Value("string")))
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    images = open_set(Hub(str(tmp_path / "set"), caption_column="text"), SIZE, "crop")
    assert images.captions == (("a moth", "an insect"), "one", "")

    def of_epoch(epoch: int) -> tuple[str, ...]:
        request = next(iter(Order(np.arange(3), 3, seed=0, done=lambda: epoch)))
        batch = BatchDataset(images, flip=False)[request]
        return tuple(batch.caption[i] for i in batch.row.argsort().tolist())

    epochs = [of_epoch(epoch) for epoch in range(200)]
    assert {caption[1:] for caption in epochs} == {("one", "")}
    assert 70 <= sum(caption[0] == "a moth" for caption in epochs) <= 130  # 100, and four standard deviations
    assert epochs[:20] == [of_epoch(epoch) for epoch in range(20)]
    assert Text().settings(images, tiny_unet())["words"] == ["a", "an", "insect", "moth", "one"]


@pytest.mark.parametrize(
    ("feature", "value", "kind"),
    [
        (datasets.List(datasets.Value("string")), ["x"], "List"),
        ({"a": datasets.Value("string")}, {"a": "x"}, "dict"),
        (datasets.Value("binary"), b"x", "binary"),
        (datasets.List({"a": datasets.Value("string")}), [{"a": "x"}], "dict"),
    ],
)
def test_labels_and_captions_that_are_no_text_are_refused_by_name(tmp_path, feature, value, kind):
    features = datasets.Features(image=datasets.Value("string"), what=feature)
    datasets.Dataset.from_dict({"image": ["a.png"], "what": [value]}, features=features).save_to_disk(tmp_path / "set")
    for key in ("label", "caption"):
        if key == "label" or kind != "List":
            shown = "List" if key == "label" and isinstance(feature, datasets.List) else kind
            with pytest.raises(UserError, match=rf"data\.{key}_column=what is a column of {shown} in .* one text"):
                Hub(str(tmp_path / "set"), **{f"{key}_column": "what"})


def test_images_that_a_local_dataset_names_lie_below_its_folder(tmp_path, monkeypatch):
    write(tmp_path / "set" / "images" / "a.png", "red")
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "a.png", "blue")
    monkeypatch.chdir(tmp_path)  # they would be looked for here
    datasets.Dataset.from_dict({"image": ["images/a.png"]}).to_parquet(tmp_path / "set" / "train.parquet")
    source = Hub(str(tmp_path / "set"))
    assert source.read(0, SIZE, "crop").image[:, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(UserError, match=r"data\.revision=main is for a hub id, and data\.path"):
        Hub(str(tmp_path / "set"), revision="main")
    with pytest.raises(UserError, match=r"set data\.name to one of its configurations, 'default'"):
        Hub(str(tmp_path / "set"), configuration="dark")


def test_no_network_is_said_at_once():
    with pytest.raises(UserError, match=r"no network.*data=butterflies"):
        Hub("huggan/smithsonian_butterflies_subset")


@pytest.mark.skipif(not (real_data() / "hub_like").is_dir(), reason="the optional photographs are not here")
def test_real_photographs():
    hub = open_set(Hub(str(real_data() / "hub_like")), SIZE, "crop")
    folder = open_set(Folder(str(real_data() / "butterflies")), SIZE, "crop")
    assert (len(hub), len(folder), len(folder.label_names)) == (200, 583, 10)
    assert folder.masks is not None
    assert folder.captions is not None
