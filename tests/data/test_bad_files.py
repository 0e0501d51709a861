"""Images and metadata from anywhere: left out by name, or refused in one sentence; never waited for."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from chrysalis.data.image_file import ImageFile
from chrysalis.data.sources.folder import FolderSource
from chrysalis.data.store import open_set
from chrysalis.models import folder
from chrysalis.system.errors import UserError

SHAPE = (3, 16, 16)


def image(seed=0, mode="RGB", size=(20, 20)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(24):
        image(i).save(tmp_path / "set" / f"{i}.png")
    return tmp_path / "set"


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG file whose header claims this size. rows: its compressed pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows or zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, kind: str, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


UNREADABLE = {
    "more pixels than any memory": lambda: png(65535, 65535),
    "a bomb": lambda: png(60000, 3000, zlib.compress(bytes(60000 * 3 + 1) * 30)),
    "a truncated JPEG": lambda: saved(image(), "JPEG")[:-200],
    "a truncated PNG": lambda: saved(image(), "PNG")[:-200],
    "nothing": lambda: b"",
    "a text": lambda: b"not an image\n",
    "zeros": lambda: bytes(5000),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unreadable_image_is_left_out_by_name(images, what, capfd):
    (images / "bad.png").write_bytes(UNREADABLE[what]())
    found = open_set(FolderSource(str(images)), SHAPE, "crop")
    assert [name for name, _ in found.rejected] == [str(images / "bad.png")]
    assert len(found) == 24
    assert "bad.png" in capfd.readouterr().err


@pytest.mark.parametrize("what", [*UNREADABLE, "a pipe", "a folder", "a device", "a name that is too long", "a loop"])
def test_a_configured_file_that_is_no_image_is_named(tmp_path, what):
    file = tmp_path / "bad.png"
    if what == "a pipe":
        os.mkfifo(file)
    elif what == "a folder":
        file.mkdir()
    elif what == "a device":
        file.symlink_to("/dev/zero")
    elif what == "a name that is too long":
        file = tmp_path / ("x" * 5000)
    elif what == "a loop":
        file.symlink_to(file)
    else:
        file.write_bytes(UNREADABLE[what]())
    with pytest.raises(UserError, match=r"task\.image="):
        ImageFile(str(file), "task.image")


def test_pipes_and_devices_do_not_block(images):
    os.mkfifo(images / "pipe.png")
    (images / "endless.png").symlink_to("/dev/zero")
    (images / "gone.png").symlink_to(images / "not there")
    (images / "loop.png").symlink_to(images / "loop.png")
    (images / "round").symlink_to(images)
    os.mkfifo(images / "0.txt")  # beside an image, where a caption would be
    for i in range(24, 100):
        (images / f"{i}.png").hardlink_to(images / "0.png")
    found = open_set(FolderSource(str(images)), SHAPE, "crop")
    assert {name.rsplit("/")[-1] for name, _ in found.rejected} == {"pipe.png", "endless.png", "gone.png", "loop.png"}
    assert "a pipe or a device" in dict(found.rejected)[str(images / "pipe.png")]


def test_unusual_names_and_kinds_are_read(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = tmp_path.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    kinds = {
        "a b.png": saved(image(1), "PNG"),
        "new\nline.png": saved(image(2), "PNG"),
        "moth 🦋.PNG": saved(image(3), "PNG"),
        "x" * 240 + ".png": saved(image(4), "PNG"),
        "cmyk.jpg": saved(image(5, "CMYK"), "JPEG"),
        "palette.gif": saved(image(6, "P"), "GIF", transparency=3),
        "moving.gif": saved(image(7), "GIF", save_all=True, append_images=[image(8)]),
        "moving.webp": saved(image(9), "WEBP", save_all=True, append_images=[image(10)]),
        "wrong suffix.jpg": saved(image(11), "PNG"),
        "turned.jpg": saved(image(12), "JPEG", exif=turned),
        "deep.png": saved(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160), "PNG"),
    }
    for name, data in kinds.items():
        (deep / name).write_bytes(data)
    (deep / os.fsdecode(b"not \xff utf8.png")).write_bytes(saved(image(13), "PNG"))
    found = open_set(FolderSource(str(tmp_path)), SHAPE, "crop")
    assert (len(found), found.rejected) == (12, ())
    assert open_set(FolderSource(str(tmp_path)), SHAPE, "crop").folder == found.folder


def test_a_label_from_a_name_that_is_no_text_can_be_written(tmp_path):
    for name in (b"a\xff", b"b\x1b[31m"):
        (tmp_path / os.fsdecode(name)).mkdir()
        image(len(name)).save(tmp_path / os.fsdecode(name) / "1.png")
    labels = open_set(FolderSource(str(tmp_path)), SHAPE, "crop").value_names["label"]
    assert labels == ("a?", "b [31m")


BAD_LINES = {
    "[" * 100_000: "a hundred thousand brackets",
    '{"file_name": "/etc/hostname"}': "an absolute path",
    '{"file_name": "../x.png"}': "out of the folder",
    '{"file_name": "loop.png"}': "a loop of links",
    '{"file_name": 3}': "a number",
    '{"file_name": ["0.png"]}': "a list",
    '{"file_name": "0.png\\u0000"}': "a zero byte",
    '{"file_name": ""}': "empty",
    '{"file_name": "0.png", "label": {"a": 1}}': "a mapping for a label",
    '{"file_name": "0.png", "text": [["a"]]}': "a list in a list of captions",
    '{"file_name": "0.png", "mask_file_name": "../m.png"}': "a mask outside",
    '{"file_name": "0.png"': "cut off",
    "9" * 5000: "a number of many digits",
    '"0.png"': "a text",
    "null": "null",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=BAD_LINES.values())
def test_a_bad_line_is_named_by_its_number(images, line):
    (images / "loop.png").symlink_to(images / "loop.png")
    (images / "metadata.jsonl").write_text(f'{{"file_name": "1.png"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"metadata\.jsonl line 3"):
        FolderSource(str(images))


def test_a_listing_of_another_encoding_is_named(images):
    (images / "metadata.jsonl").write_bytes(b'{"file_name": "1.png"}\n{"file_name": "2.png", "text": "gr\xfcn"}\n')
    with pytest.raises(UserError, match=r"metadata\.jsonl line 2 is not UTF-8"):
        FolderSource(str(images))


def test_marks_long_lines_and_repeated_names_are_fine(images):
    rows = [{"file_name": f"{i % 4}.png", "text": f"no. {i}\x00\x1b[31m \ud800", "label": i % 2} for i in range(8)]
    rows[0]["text"] = "long " * 2_000_000
    text = "\ufeff" + "\r\n".join(json.dumps(row) for row in rows) + "\r\n\r\n"
    (images / "metadata.jsonl").write_text(text, encoding="utf-8", newline="")
    found = open_set(FolderSource(str(images)), SHAPE, "crop")
    assert (len(found), found.value_names["label"]) == (8, ("0", "1"))
    assert found.columns["caption"][1] == "no. 1  [31m ?"
    assert len(found.columns["caption"][0]) == 10_000_000


def test_a_caption_in_another_encoding_excludes_its_image(images):
    (images / "0.txt").write_bytes("grün".encode("latin-1"))
    found = open_set(FolderSource(str(images)), SHAPE, "crop")
    assert "its caption 0.txt is not UTF-8 text" in found.rejected[0][1]


@pytest.mark.parametrize("path", ["~nobody-has-this-name/x", "x" * 5000, "a\0b"])
def test_an_impossible_path_is_reported(path):
    for key, use in (
        ("data.path", FolderSource),
        ("model.pretrained", folder.load),
        ("x", lambda p: ImageFile(p, "x")),
    ):
        with pytest.raises(UserError, match=f"^{key}=") as raised:
            use(path)
        assert len(str(raised.value)) < 600


def test_many_files_in_many_folders_are_listed(tmp_path):
    image().save(tmp_path / "0.png")
    for i in range(1, 50):
        (tmp_path / f"s{i}").mkdir()
        for k in range(2000 if i == 1 else 200):
            os.link(tmp_path / "0.png", tmp_path / f"s{i}" / f"{k}.png")
    source = FolderSource(str(tmp_path))
    assert len(source) == 1 + 2000 + 48 * 200
    assert source.fingerprint().startswith("folder")
