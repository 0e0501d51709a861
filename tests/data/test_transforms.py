import numpy as np
import pytest
from PIL import Image

from chrysalis.data.transforms import (
    fit,
    height_and_width,
    in_shape_of,
    mask_to_training_size,
    to_rgb,
    to_training_size,
    upright_size,
)

RED = (200, 30, 10)


def pixel(image: Image.Image) -> tuple[int, int, int]:
    return to_rgb(image).getpixel((0, 0))


def test_every_mode_becomes_rgb():
    rgb = Image.new("RGB", (6, 4), RED)
    assert pixel(rgb) == RED
    assert pixel(Image.new("L", (6, 4), 77)) == (77, 77, 77)
    assert pixel(Image.new("1", (6, 4), 1)) == (255, 255, 255)
    assert pixel(Image.new("I;16", (6, 4), 257 * 100)) == (100, 100, 100)
    assert pixel(Image.fromarray(np.full((4, 6), 0.5, np.float32))) == (128, 128, 128)
    assert pixel(Image.new("CMYK", (6, 4), (0, 255, 255, 0))) == (255, 0, 0)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(np.array(pixel(palette)) - RED).max() <= 4


def test_transparency_is_laid_over_white():
    assert pixel(Image.new("RGBA", (6, 4), (*RED, 0))) == (255, 255, 255)
    assert pixel(Image.new("RGBA", (6, 4), (0, 0, 0, 127))) == (128, 128, 128)
    assert pixel(Image.new("LA", (6, 4), (0, 0))) == (255, 255, 255)
    palette = Image.new("P", (6, 4), 3)
    palette.info["transparency"] = 3
    assert pixel(palette) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turned a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as opened:
        assert upright_size(opened) == (4, 8)
        assert to_rgb(opened).size == (4, 8)


def test_resize_modes():
    """A 40 x 20 image with a red left quarter: cropped away, squeezed, or padded around."""
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 10, 20))
    crop, stretch, pad = (np.asarray(fit(image, (20, 20), how)) for how in ("crop", "stretch", "pad"))
    assert (crop[:, :, 0] < 30).all()
    assert (stretch[:, :4, 0] > 225).all()
    assert (stretch[:, 7:, 0] < 30).all()
    assert (pad[0] == 255).all()
    assert (pad[10, :4, 0] > 225).all()


def test_height_comes_before_width():
    assert to_training_size(Image.new("RGB", (50, 50)), (3, 16, 24), "crop").shape == (3, 16, 24)
    assert height_and_width([16, 24]) == (16, 24)
    assert height_and_width(64) == (64, 64)


def test_masks_stay_binary_and_padding_is_outside():
    mask = Image.new("L", (40, 20), 255)
    small = mask_to_training_size(mask, (20, 20), "pad")
    assert set(np.unique(small)) == {0, 255}
    assert (small[0, 0] == 0).all()
    assert (small[0, 10] == 255).all()


def test_masks_take_the_shape_of_their_image():
    mask = Image.new("L", (64, 40), 255)
    assert in_shape_of((60, 40), mask, "crop", nearest=True).size == (60, 40)
    assert in_shape_of((32, 20), mask, "crop", nearest=True) is mask
    assert in_shape_of((20, 20), mask, "stretch", nearest=True) is mask
    with pytest.raises(ValueError, match="64 x 40 pixels is a different shape from the image's 40 x 64"):
        in_shape_of((40, 64), mask, "pad", nearest=True)
