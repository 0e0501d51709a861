"""Folders of images with masks, conditioning images and measurements: what lies on what, and what is refused."""

import json
import os

import numpy as np
import pytest
from conftest import real_data
from PIL import Image

from chrysalis.data.sources.folder import FolderSource, folder_data
from chrysalis.data.store import open_set
from chrysalis.system.errors import UserError

SHAPE = (3, 20, 20)
WHOLE = (60, 40)  # width, height; cropped to the middle 40 x 40 and halved
BOX = (14, 8, 30, 20)  # left, top, right, bottom: rows 4 to 10 and columns 2 to 10 of the crop


def scene(path, colour, ground, whole=WHOLE, scale=1.0, **saving):
    """A rectangle on a ground, at a `scale` of BOX in WHOLE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L" if isinstance(ground, int) else "RGB", whole, ground)
    image.paste(colour, tuple(round(x * scale) for x in BOX))
    image.save(path, **saving)
    return path


def expected():
    inside = np.zeros(SHAPE[1:], dtype=bool)
    inside[4:10, 2:10] = True
    return inside


def metadata(folder, *lines):
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


@pytest.fixture
def mirrored(tmp_path):
    """Two images with masks of half their size and conditioning images of twice their size, elsewhere."""
    for name in ("a/1", "b/2"):
        scene(tmp_path / "images" / f"{name}.jpg", "red", "blue", quality=100, subsampling=0)
        scene(tmp_path / "masks" / f"{name}.png", 255, 0, (30, 20), 0.5)
        scene(tmp_path / "edges" / f"{name}.webp", "lime", "black", (120, 80), 2.0, lossless=True)
    return tmp_path


def beside(root, **more):
    return folder_data(
        str(root / "images"), masks=str(root / "masks"), conditioning_images=str(root / "edges"), **more
    ).source


def test_mirrored_files_land_on_the_same_pixels(mirrored):
    images = open_set(beside(mirrored), SHAPE, "crop")
    assert images.without == {}
    assert images.value_names["label"] == ("a", "b")
    for i in range(2):
        assert ((images.images[i, 0] > 127) == expected()).all()
        assert ((images.columns["mask"][i, 0] == 255) == expected()).all()
        assert ((images.columns["conditioning_image"][i, 1] > 127) == expected()).all()
        assert images.columns["conditioning_image"][i, [0, 2]].max() == 0


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_conditioning_image_with_rounded_sides_still_aligns(tmp_path, resize):
    """64 x 40 for an image of 60 x 40: everything a bit wider, not cut off at the sides."""
    scene(tmp_path / "images" / "1.png", "white", "black")
    wide = Image.open(tmp_path / "images" / "1.png").resize((64, 40))
    (tmp_path / "edges").mkdir()
    wide.save(tmp_path / "edges" / "1.png")
    source = folder_data(str(tmp_path / "images"), conditioning_images=str(tmp_path / "edges")).source
    images = open_set(source, SHAPE, resize)
    assert ((images.images > 127) == (images.columns["conditioning_image"] > 127)).mean() > 0.98


def test_a_turned_photograph_and_its_upright_mask(tmp_path):
    scene(tmp_path / "upright.png", "red", "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    (tmp_path / "images").mkdir()
    turned = Image.open(tmp_path / "upright.png").transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "images" / "1.jpg", exif=exif, quality=100, subsampling=0)
    scene(tmp_path / "masks" / "1.png", 255, 0)
    images = open_set(folder_data(str(tmp_path / "images"), masks=str(tmp_path / "masks")).source, SHAPE, "crop")
    assert ((images.images[0, 0] > 127) == expected()).all()
    assert ((images.columns["mask"][0, 0] == 255) == expected()).all()


def test_a_mask_of_another_shape_is_rejected(mirrored):
    scene(mirrored / "masks" / "a" / "1.png", 255, 0, (40, 60))
    with pytest.raises(UserError, match=r"1\.jpg.*its mask: 40 x 60 pixels.*60 x 40"):
        open_set(beside(mirrored), SHAPE, "crop")


def test_a_broken_mask_is_distinguished_from_a_broken_image(mirrored):
    (mirrored / "masks" / "a" / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="its mask is not an image"):
        open_set(beside(mirrored), SHAPE, "crop")


def test_gaps_are_reported_by_name(mirrored):
    (mirrored / "masks" / "b" / "2.png").unlink()
    images = open_set(beside(mirrored), SHAPE, "crop")
    assert "mask" not in images.columns
    assert images.without == {"mask": (str(mirrored / "images" / "b" / "2.jpg"),)}
    assert "conditioning_image" in images.columns
    plain = open_set(FolderSource(str(mirrored / "images")), SHAPE, "crop")
    assert (list(plain.columns), plain.without) == (["label"], {})


def test_masks_below_the_set_are_not_training_images(mirrored):
    """images/ and masks/ side by side: mirrored without or with the folder of images in the name."""
    source = folder_data(
        str(mirrored), masks=str(mirrored / "masks"), conditioning_images=str(mirrored / "edges")
    ).source
    images = open_set(source, SHAPE, "crop")
    assert len(images) == 2
    assert images.value_names["label"] == ("a", "b")
    os.rename(mirrored / "masks", mirrored / "moved")
    (mirrored / "masks").mkdir()
    os.rename(mirrored / "moved", mirrored / "masks" / "images")
    source = folder_data(
        str(mirrored), masks=str(mirrored / "masks"), conditioning_images=str(mirrored / "edges")
    ).source
    assert (open_set(source, SHAPE, "crop").columns["mask"] == images.columns["mask"]).all()


def test_metadata_names_conditioning_images(tmp_path):
    scene(tmp_path / "a.png", "red", "blue")
    scene(tmp_path / "edges of a.png", "lime", "black")
    metadata(tmp_path, {"file_name": "a.png", "conditioning_image_file_name": "edges of a.png"})
    images = open_set(FolderSource(str(tmp_path)), SHAPE, "crop")
    assert ((images.columns["conditioning_image"][0, 1] > 127) == expected()).all()


def test_a_named_folder_replaces_what_metadata_names(mirrored):
    scene(mirrored / "images" / "empty.png", 0, 0)
    metadata(mirrored / "images", {"file_name": "a/1.jpg", "mask_file_name": "empty.png"})
    assert open_set(FolderSource(str(mirrored / "images")), SHAPE, "crop").columns["mask"].max() == 0
    assert open_set(beside(mirrored), SHAPE, "crop").columns["mask"].max() == 255


def measured(tmp_path, *values, **more):
    for i, value in enumerate(values):
        scene(tmp_path / f"{i}.png", (i, 0, 0), "blue")
        more[i] = {"file_name": f"{i}.png", "span": value, "month": i, "kind": f"k{i}", "title": f"t{i}", "text": "no"}
    metadata(tmp_path, *more.values())
    return str(tmp_path)


def test_columns_of_metadata(tmp_path):
    path = measured(tmp_path, 3.5, None, 2, float("nan"))
    source = folder_data(path, label_column="kind", caption_column="title", vector_columns=["span", "month"]).source
    images = open_set(source, SHAPE, "crop")
    assert images.value_names["label"] == ("k0", "k1", "k2", "k3")
    assert images.columns["caption"] == ("t0", "t1", "t2", "t3")
    assert images.value_names["vector"] == ("span", "month")
    assert images.columns["vector"].dtype == np.float32
    np.testing.assert_array_equal(images.columns["vector"], [[3.5, 0], [np.nan, 1], [2, 2], [np.nan, 3]])
    unmeasured = open_set(FolderSource(path), SHAPE, "crop")
    assert "vector" not in unmeasured.columns
    assert set(unmeasured.columns["caption"]) == {"no"}


@pytest.mark.parametrize("value", ["wide", "3.5", [1], float("inf"), 1e39, 10**400])
def test_a_measurement_that_is_none_is_refused_by_its_line(tmp_path, value):
    with pytest.raises(UserError, match=r"metadata\.jsonl line 2: span, listed in data\.vector_columns"):
        folder_data(measured(tmp_path, 1, value), vector_columns=["span"])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"label_column": "species"}, r"data\.label_column=species"),
        ({"caption_column": "species"}, r"data\.caption_column=species"),
        ({"vector_columns": ["species", "month"]}, r"data\.vector_columns=species"),
    ],
)
def test_an_unknown_column_is_refused(tmp_path, settings, key):
    with pytest.raises(UserError, match=f"{key}.*metadata.jsonl.*file_name, span, month, kind, title, text"):
        folder_data(measured(tmp_path, 1, 2), **settings)
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match=f"{key} needs .*metadata.jsonl, which does not exist"):
        folder_data(str(tmp_path), **settings)


@pytest.mark.parametrize(("argument", "key"), [("masks", "masks"), ("conditioning_images", "conditioning_images")])
def test_a_folder_that_cannot_mirror_is_refused(mirrored, argument, key):
    images = str(mirrored / "images")
    with pytest.raises(UserError, match=rf"data\.{key}=.*maks is not a folder.*images, masks"):
        folder_data(images, **{argument: str(mirrored / "maks")})
    with pytest.raises(UserError, match=rf"data\.{key}=.*images is data\.path itself"):
        folder_data(images, **{argument: images})
    scene(mirrored / "other" / "1_mask.png", 255, 0)
    with pytest.raises(UserError, match=rf"data\.{key}=.*other has no image that.*images/a/1\.jpg.*contain a/1\.png"):
        folder_data(images, **{argument: str(mirrored / "other")})
    scene(mirrored / "masks" / "a" / "1.webp", 255, 0)
    with pytest.raises(UserError, match=rf"data\.{key}=.*masks has a/1\.png and a/1\.webp for .*a/1\.jpg"):
        folder_data(images, **{argument: str(mirrored / "masks")})


def test_the_cache_notices_changes_of_all_that_is_read(mirrored):
    first = open_set(beside(mirrored), SHAPE, "crop")
    assert open_set(beside(mirrored), SHAPE, "crop").folder == first.folder
    scene(mirrored / "masks" / "a" / "1.png", 0, 255, (30, 20), 0.5)
    second = open_set(beside(mirrored), SHAPE, "crop")
    assert ((second.columns["mask"][0, 0] == 0) == expected()).all()
    scene(mirrored / "edges" / "b" / "2.webp", "black", "lime", (120, 80), 2.0, lossless=True)
    third = open_set(beside(mirrored), SHAPE, "crop")
    assert ((third.columns["conditioning_image"][1, 1] < 128) == expected()).all()
    images, masks = str(mirrored / "images"), str(mirrored / "masks")
    assert (
        folder_data(images, masks=masks).source.fingerprint()
        != folder_data(images, conditioning_images=masks).source.fingerprint()
    )


def test_the_cache_notices_a_changed_measurement(tmp_path):
    before = folder_data(measured(tmp_path, 1, 2), vector_columns="span").source.fingerprint()
    assert folder_data(str(tmp_path), vector_columns="month").source.fingerprint() != before
    assert FolderSource(str(tmp_path)).fingerprint() != before
    lines = (tmp_path / "metadata.jsonl").read_text().replace('"span": 2', '"span": 3')
    (tmp_path / "metadata.jsonl").write_text(lines)
    assert folder_data(str(tmp_path), vector_columns="span").source.fingerprint() != before


@pytest.mark.skipif(not (real_data() / "butterflies").is_dir(), reason="the optional photographs are not here")
def test_real_masks_by_folder_are_those_of_metadata():
    root = real_data() / "butterflies"
    listed = open_set(folder_data(str(root), caption_column="common_name").source, (3, 32, 32), "crop")
    mirrored = open_set(folder_data(str(root / "images"), masks=str(root / "masks")).source, (3, 32, 32), "crop")
    row = {name: i for i, name in enumerate(mirrored.names)}
    same = [row[name] for name in listed.names]
    assert (mirrored.images[same] == listed.images).all()
    assert (mirrored.columns["mask"][same] == listed.columns["mask"]).all()
    assert "Monarch" in listed.columns["caption"]
