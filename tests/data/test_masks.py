"""What masks mark: each kind that people have, against the pixels that its maker meant."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from chrysalis.data.masks import to_mask

HALF = [0, 0, 1, 1]  # of a row of four


def found(image: Image.Image, **how) -> list[int]:
    return (np.asarray(to_mask(image, **how))[0] // 255).tolist()


def row(*values, dtype=np.uint8) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


def palette(*colors: tuple[int, int, int], indices) -> Image.Image:
    image = Image.new("P", (len(indices), 1))
    image.putdata(list(indices))
    image.putpalette([value for color in colors for value in color])
    return image


MEANT = {
    "black and white": row(0, 0, 255, 255),
    "grey edges": row(0, 100, 200, 255),
    "bits": row(0, 0, 255, 255).convert("1"),
    "0 and 1": row(0, 0, 1, 1),
    "0 and 2": row(0, 0, 2, 2),
    "0 and 100": row(0, 0, 100, 100),
    "ids to both sides of a half": row(0, 0, 12, 149),
    "16 bits": row(0, 30000, 40000, 65535, dtype=np.uint16),
    "ids of 16 bits": row(0, 0, 1, 300, dtype=np.uint16),
    "ids of 32 bits, -1 for none": row(0, -1, 1, 70000, dtype=np.int32),
    "floats": row(0, 0.4, 0.6, 1, dtype=np.float32),
    "float ids": row(0, 0, 1, 2, dtype=np.float32),
    "float 0 and 255": row(0, 0, 255, 255, dtype=np.float32),
    "a float that is missing": row(0, np.nan, 1, 1, dtype=np.float32),
    "a palette whose 0 is light and 1 dark": palette((250, 250, 200), (0, 0, 0), indices=HALF),
    "a palette of red and green": palette((0, 0, 0), (128, 0, 0), (0, 128, 0), indices=[0, 0, 1, 2]),
    "a grey palette, white first": palette((255, 255, 255), (0, 0, 0), indices=[1, 1, 0, 0]),
    "dark red": Image.merge("RGB", [row(0, 0, 128, 128), row(0, 0, 0, 0), row(0, 0, 0, 0)]),
    "blue": Image.merge("RGB", [row(0, 0, 0, 0), row(0, 0, 0, 0), row(0, 0, 255, 255)]),
    "opaque black and white": Image.merge("LA", [row(0, 0, 255, 255), row(255, 255, 255, 255)]),
    "a dark subject cut out": Image.merge("LA", [row(200, 255, 10, 90), row(0, 20, 255, 200)]),
}


@pytest.mark.parametrize("what", MEANT)
def test_each_kind_marks_its_right_half(what):
    assert found(MEANT[what]) == HALF


def test_a_hole_is_the_inside():
    photograph = Image.merge("RGBA", [row(10, 200, 90, 30), row(9, 220, 9, 9), row(1, 1, 1, 1), row(255, 255, 0, 0)])
    assert found(photograph, hole=True) == HALF
    assert found(photograph) == [1, 1, 0, 0]
    strokes = Image.merge("LA", [row(0, 0, 255, 255), row(0, 0, 255, 255)])
    assert found(strokes, hole=True) == HALF


def test_a_mask_is_turned_as_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = io.BytesIO()
    row(255, 255, 0, 0).save(data, "PNG", exif=exif)
    assert found(Image.open(data)) == HALF


def test_noise_of_a_jpeg_is_no_id():
    data = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 3, (16, 16), dtype=np.uint8)
    Image.fromarray(values).save(data, "JPEG", quality=95)
    assert np.asarray(to_mask(Image.open(data))).max() == 0


def test_ambiguous_values_are_refused():
    with pytest.raises(ValueError, match="values 1, 255 may be class ids or grey"):
        to_mask(row(0, 1, 255, 255))
    with pytest.raises(ValueError, match="values reach 99 and white is 1"):
        to_mask(row(*range(100), dtype=np.float32))


@pytest.mark.parametrize("value", [1, 17, 90])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_polygon_of_coco_is_marked_whatever_its_class_id(value, mode):
    """As its annotations are rasterized: one PNG file of 0 and 1, or of 0 and a class id."""
    mask = Image.new(mode, (12, 10))
    if mode == "P":
        mask.putpalette([n for i in range(256) for n in (i, 255 - i, 7)])
    ImageDraw.Draw(mask).polygon([(2, 1), (9, 1), (9, 6), (2, 6)], fill=value)
    data = io.BytesIO()
    mask.save(data, "PNG")
    expected = np.zeros((10, 12), bool)
    expected[1:7, 2:10] = True
    assert (np.asarray(to_mask(Image.open(data))) == 255 * expected).all()
