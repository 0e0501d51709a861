"""Folders as people have them: formats with and without a plugin, files that are not used, small images, odd masks."""

import sys

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError, features

from chrysalis.data import formats
from chrysalis.data.formats import PluginMissing, open_image, suffixes, unused_note
from chrysalis.data.sources.folder import FolderSource, folder_data
from chrysalis.data.store import open_set
from chrysalis.system.errors import UserError

SHAPE = (3, 16, 16)
HEIC, JXL = b"\0\0\0\x18ftypheic" + bytes(40), b"\xff\x0a" + bytes(40)


@pytest.fixture
def bare(monkeypatch):
    """As if no plugin were installed."""
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    for plugin in formats.PLUGINS:
        monkeypatch.setitem(sys.modules, plugin, None)  # importing it raises ImportError
    formats.suffixes.cache_clear()
    yield
    formats.suffixes.cache_clear()


def save(path, value=0, size=(20, 20), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(value, tuple) else "L", size, value).save(path, **how)


@pytest.mark.parametrize(
    ("suffix", "feature", "how"),
    [(".avif", "avif", {"quality": 100}), (".jp2", "jpg_2000", {}), (".jfif", "jpg", {}), (".ppm", "pil", {})],
)
def test_all_formats_of_pillow_are_used(tmp_path, suffix, feature, how):
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {feature}")
    for i in range(2):
        save(tmp_path / f"{i}{suffix.upper()}", (200, 100 * i, 50), **how)
    found = open_set(FolderSource(str(tmp_path)), SHAPE, "crop").images[:, :, 8, 8].astype(int)
    assert np.abs(found - [[200, 0, 50], [200, 100, 50]]).max() <= 3


def test_heif_is_used_where_its_plugin_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 100, 50))).save(tmp_path / "a.heic")
    found = open_set(FolderSource(str(tmp_path)), SHAPE, "crop").images[0, :, 8, 8].astype(int)
    assert np.abs(found - [200, 100, 50]).max() <= 4


def test_a_missing_plugin_is_named(bare):
    assert ".heic" not in suffixes()
    with pytest.raises(PluginMissing, match=r'pip install "chrysalis\[heif\]"'):
        open_image(HEIC)
    with pytest.raises(PluginMissing, match="pip install pillow-jxl-plugin"):
        open_image(JXL)
    with pytest.raises(UnidentifiedImageError):
        open_image(b"no image")


def test_files_that_are_not_used_are_counted_by_suffix(tmp_path, bare):
    for name, data in {"1.HEIC": HEIC, "2.heic": HEIC, "3.jxl": JXL, "4.csv": b"", "5": b"", "a.txt": b"a"}.items():
        (tmp_path / name).write_bytes(data)
    note = r'not used: 2 \.heic \(pip install "chrysalis\[heif\]"\), 1 without suffix, 1 \.csv, 1 \.jxl \(pip install'
    with pytest.raises(UserError, match=r"contains no images.*\.png.*" + note):
        FolderSource(str(tmp_path))
    save(tmp_path / "a.png")
    source = FolderSource(str(tmp_path))
    assert len(source) == 1
    assert source.note.startswith("Files not used: 2 .heic (")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    assert FolderSource(str(tmp_path)).note == ""
    assert unused_note({f".{i:02}": 100 - i for i in range(20)}).endswith("93 .07, 1038 others.")


@pytest.mark.parametrize(("resize", "n"), [("crop", 2), ("stretch", 2), ("pad", 1)])
def test_enlarged_images_are_counted(tmp_path, resize, n):
    for name, size in (("a", (16, 16)), ("b", (40, 12)), ("c", (15, 8)), ("d", (16, 17))):
        save(tmp_path / f"{name}.png", size=size)
    images = open_set(FolderSource(str(tmp_path)), SHAPE, resize)
    assert images.enlarged == n
    assert images.enlarged_note().startswith(f"{n} image")
    assert open_set(FolderSource(str(tmp_path)), SHAPE, resize).enlarged == n  # from the cache


def test_masks_that_mark_nothing_or_everything_are_reported_once(tmp_path, capsys):
    for i, value in enumerate((0, 255, 2)):
        save(tmp_path / "images" / f"{i}.png", (i, 0, 0))
        save(tmp_path / "masks" / f"{i}.png", value)
    mask = Image.new("L", (20, 20))
    mask.paste(2, (0, 0, 10, 20))
    mask.save(tmp_path / "masks" / "2.png")
    source = folder_data(str(tmp_path / "images"), masks=str(tmp_path / "masks")).source
    images = open_set(source, SHAPE, "crop")
    assert (images.columns["mask"][2, 0] == 255).mean() == 0.5
    message = " ".join(capsys.readouterr().err.split())
    assert message.count("Some of 3 masks mark nothing or everything: 1 empty (") == 1
    assert "0.png); 1 full (" in message
    for i in range(3):
        save(tmp_path / "masks" / f"{i}.png", 0, size=(20, 20))
    open_set(source, SHAPE, "crop")
    assert "All 3 masks are empty" in " ".join(capsys.readouterr().err.split())
