import io
import json

import numpy as np
import pytest
from PIL import Image

from chrysalis.data.sources.folder import FolderSource
from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.system.errors import UserError

SHAPE = (3, 16, 16)


def write(path, colour="red", size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_folder_labels_are_its_subfolders(image_folder):
    images = open_set(FolderSource(str(image_folder)), SHAPE, "crop")
    assert len(images) == 24
    assert set(images.value_names["label"]) == {p.name for p in image_folder.iterdir()}
    for name, label in zip(images.names, images.columns["label"], strict=True):
        assert f"/{images.value_names['label'][label]}/" in name


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
    images = open_set(FolderSource(str(tmp_path)), SHAPE, "crop")
    assert len(images) == 2
    assert images.columns["caption"] == ("the a", "the b")
    assert images.value_names["label"] == ("is a", "is b")
    assert images.columns["mask"].mean(axis=(1, 2, 3)).tolist() == [255, 0]


@pytest.mark.parametrize("line", ['{"label": 3}', "not json", '{"file_name": "../outside.png"}', "[]"])
def test_a_bad_metadata_line_is_named(tmp_path, line):
    write(tmp_path / "set" / "a.png")
    write(tmp_path / "outside.png")
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line)
    with pytest.raises(UserError, match="line 2"):
        FolderSource(str(tmp_path / "set"))


def test_a_text_file_beside_an_image_is_its_caption(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red square\n")
    assert open_set(FolderSource(str(tmp_path)), SHAPE, "crop").columns["caption"] == ("a red square",)


def test_unreadable_files_are_listed_left_out_and_untouched(tmp_path, capsys):
    for i in range(40):
        write(tmp_path / f"{i:02}.png", (i, i, i))
    broken = tmp_path / "broken one.jpg"
    broken.write_bytes(b"not an image")
    images = open_set(FolderSource(str(tmp_path)), SHAPE, "crop")
    assert len(images) == 40
    assert "broken one.jpg" in capsys.readouterr().err
    assert broken.read_bytes() == b"not an image"
    assert images.images[:, 0].mean(axis=(1, 2)).tolist() == list(range(40))


def test_too_many_unreadable_files_stop_the_run(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 11 images cannot be read.*bad\.png"):
        open_set(FolderSource(str(tmp_path)), SHAPE, "crop")


def test_a_truncated_image_is_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "JPEG")
    for i in range(30):
        write(tmp_path / f"{i}.png")
    (tmp_path / "cut.jpg").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    assert [name.split("/")[-1] for name, _ in open_set(FolderSource(str(tmp_path)), SHAPE, "crop").rejected] == [
        "cut.jpg"
    ]


def test_a_loop_of_links_ends(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(FolderSource(str(tmp_path))) == 1


def test_the_cache_notices_a_changed_file(tmp_path):
    write(tmp_path / "a.png", "red")
    first = open_set(FolderSource(str(tmp_path)), SHAPE, "crop").images[0, :, 0, 0].tolist()
    write(tmp_path / "a.png", "blue", (21, 21))
    second = open_set(FolderSource(str(tmp_path)), SHAPE, "crop").images[0, :, 0, 0].tolist()
    assert (first, second) == ([255, 0, 0], [0, 0, 255])


def test_the_cache_is_complete_or_absent(tmp_path, monkeypatch):
    """A reader that dies halfway leaves nothing behind."""
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))

    class Dies(DrawnSource):
        def row_name(self, i):
            raise KeyboardInterrupt

        def read(self, i, shape, resize):
            if i == 5:
                raise OSError("gone")
            return super().read(i, shape, resize)

    with pytest.raises(KeyboardInterrupt):
        open_set(Dies("butterflies", 20), SHAPE, "crop")
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def test_split_is_by_content_not_by_order_or_name(tmp_path):
    for i in range(60):
        write(tmp_path / "one" / f"{i:02}.png", (i, 0, 0))
        write(tmp_path / "two" / f"{59 - i:02}-renamed.png", (i, 0, 0))
    write(tmp_path / "two" / "a copy.png", (7, 0, 0))

    def validation(folder):
        images = open_set(FolderSource(str(tmp_path / folder)), SHAPE, "crop")
        train, rows = images.split(0.2)
        assert sorted([*train, *rows]) == list(range(len(images)))
        return {int(images.images[i, 0, 0, 0]) for i in rows}, {int(images.images[i, 0, 0, 0]) for i in train}

    one, two = validation("one"), validation("two")
    assert one == two
    assert one[0].isdisjoint(one[1])
    assert 4 <= len(one[0]) <= 20
