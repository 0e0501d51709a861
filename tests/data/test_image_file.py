"""Images and masks that the command line names."""

import numpy as np
import pytest
from PIL import Image

from chrysalis.data.image_file import ImageFile
from chrysalis.system.errors import UserError


def test_a_turned_photograph_and_its_upright_mask_have_one_shape(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 32)).save(tmp_path / "upright.png")
    Image.new("RGB", (32, 16)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (32, 16)).save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    upright, *turned = (ImageFile(str(tmp_path / name), "x") for name in ("upright.png", "turned.jpg", "turned.tif"))
    for image in turned:
        assert image.size == (16, 32)
        upright.require_shape_of(image)
        image.require_shape_of(upright)
    Image.new("RGB", (32, 16)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match="32 x 16 pixels and x is 16 x 32"):
        ImageFile(str(tmp_path / "wide.png"), "x").require_shape_of(turned[0])


def test_tags_are_known_after_opening(tmp_path):
    values = np.repeat(np.uint16([[51400, 0]]), 2, axis=0)
    Image.fromarray(values).save(tmp_path / "inverted.tif", tiffinfo={262: 0})
    image = ImageFile(str(tmp_path / "inverted.tif"), "x").at((2, 2))
    assert image[0, 0].tolist() == [[55, 255]] * 2


def test_a_photograph_with_a_hole_is_its_own_mask(tmp_path):
    rgba = np.full((8, 8, 4), 200, np.uint8)
    rgba[:, :4, :3], rgba[..., 3], rgba[:, 5:, 3] = 20, 255, 0
    Image.fromarray(rgba).save(tmp_path / "hole.png")
    given = ImageFile(str(tmp_path / "hole.png"), "task.mask")
    assert given.mask_at((8, 8), hole=True)[0, 0, 0].tolist() == [0] * 5 + [1] * 3
    assert given.mask_at((8, 8))[0, 0, 0].tolist() == [1] * 5 + [0] * 3


def test_a_mask_without_two_parts_is_reported(tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    given = ImageFile(str(tmp_path / "black.png"), "mask")
    with pytest.raises(UserError, match="white and black"):
        given.mask_at((8, 8))
    assert given.mask_at((8, 8), strict=False).max() == 0
    assert "is all black at 8 x 8 px" in " ".join(capsys.readouterr().err.split())
    Image.fromarray(np.uint8([[0, 1, 255]])).save(tmp_path / "ids.png")
    with pytest.raises(UserError, match=r"^mask=.*ids\.png cannot be used: its values .* may be class ids"):
        ImageFile(str(tmp_path / "ids.png"), "mask").mask_at((8, 8))
