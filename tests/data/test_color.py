"""Colors and greys of files as people have them, against values worked out by hand and profiles written by hand."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from chrysalis.data.color import to_rgb
from chrysalis.data.transforms import upright_size

D50 = 0.9642, 1.0, 0.8249
P3 = (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)  # adapted to D50


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def icc(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2010, clause 7)."""
    head = struct.pack(">4x4sI4s4s4s12x4s", b"", 0x04000000, kind, space, pcs, b"acsp").ljust(68, b"\0") + fixed(*D50)
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    profile = head.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def display_p3() -> bytes:
    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {f"{c}XYZ".encode(): b"XYZ \0\0\0\0" + fixed(*xyz) for c, xyz in zip("rgb", P3, strict=True)}
    tags |= {f"{c}TRC".encode(): curve for c in "rgb"} | {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)}
    return icc(b"mntr", b"RGB ", b"XYZ ", tags)


def linear_grey() -> bytes:
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)}
    return icc(b"mntr", b"GRAY", b"XYZ ", tags)


MAGENTA = 60, 20, -10  # CIELAB under D50


def ink() -> bytes:
    """Paper is white, any black ink black, and magenta alone is MAGENTA: a lut8Type of two points an ink."""
    identity = bytes(range(256))
    cells = []
    for inks in itertools.product((0, 1), repeat=4):
        lab = {(0, 0, 0, 0): (100, 0, 0), (0, 1, 0, 0): MAGENTA}.get(inks, (0 if inks[3] else 30, 0, 0))
        cells += [round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128]
    lut = b"mft1\0\0\0\0\4\3\2\0" + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + identity * 4 + bytes(cells) + identity * 3
    return icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)})


def encoded(linear) -> np.ndarray:
    """IEC 61966-2-1, to 0..255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def of_lab(light: float, a: float, b: float) -> np.ndarray:
    """sRGB of a color in CIELAB under D50, by Bradford's adaptation."""
    f = np.array([(light + 16) / 116 + a / 500, (light + 16) / 116, (light + 16) / 116 - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    to_linear = [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
    return encoded(to_linear @ xyz)


def saved(image: Image.Image, kind: str, **how) -> Image.Image:
    data = io.BytesIO()
    image.save(data, kind, **how)
    return Image.open(io.BytesIO(data.getvalue()))


def pixel(image: Image.Image) -> np.ndarray:
    return np.array(to_rgb(image).getpixel((0, 0)))


def close(found, expected, by=1) -> bool:
    return bool((np.abs(np.asarray(found) - np.asarray(expected)) <= by).all())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_profile_is_brought_to_srgb(kind):
    how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    opened = saved(Image.new("RGB", (8, 8), (120, 200, 60)), kind, icc_profile=display_p3(), **how)
    assert close(pixel(opened), (89, 203, 2), by=6 if kind == "JPEG" else 2)  # near 0 a step of P3 is several


def test_a_profile_applies_below_transparency_and_to_palettes():
    half = Image.new("RGBA", (4, 4), (120, 200, 60, 51))
    assert close(pixel(saved(half, "PNG", icc_profile=display_p3())), np.array([89, 203, 2]) * 0.2 + 255 * 0.8, by=2)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 120, 200, 60])
    assert close(pixel(saved(palette, "PNG", icc_profile=display_p3())), (89, 203, 2), by=2)


def test_grey_and_ink_profiles():
    grey = encoded(128 / 255)
    assert close(pixel(saved(Image.new("L", (4, 4), 128), "PNG", icc_profile=linear_grey())), grey)
    assert close(pixel(saved(Image.new("LA", (4, 4), (128, 255)), "PNG", icc_profile=linear_grey())), grey)
    assert close(pixel(saved(Image.new("L", (4, 4), 90), "PNG", icc_profile=display_p3())), 90)
    for inks, expected in (((0, 255, 0, 0), of_lab(*MAGENTA)), ((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        assert close(pixel(saved(Image.new("CMYK", (4, 4), inks), "TIFF", icc_profile=ink())), expected, by=2)


def test_lab_needs_no_profile():
    assert close(pixel(Image.new("LAB", (4, 4), (153, 128 + 20, 128 - 10))), of_lab(*MAGENTA), by=2)


PROFILES = {
    "none": None,
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "cut off": display_p3()[:200],
    "no profile": b"no profile",
    "of inks": ink(),
    "of greys": linear_grey(),
}


@pytest.mark.parametrize("which", PROFILES)
def test_srgb_stays_equal_to_the_bit(which):
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    image.info["icc_profile"] = PROFILES[which]
    assert (np.asarray(to_rgb(image)) == values).all()


def tiff(bits: int, strip: bytes, photometric=1, sample_format=1, size=(2, 1), **more) -> Image.Image:
    """A grey TIFF (TIFF 6.0, section 8). more: t340=(type, bytes)."""
    short, long = (lambda v: (3, struct.pack("<HH", v, 0))), (lambda v: (4, struct.pack("<I", v)))
    tags = {256: short(size[0]), 257: short(size[1]), 258: short(bits), 259: short(1), 262: short(photometric)}
    tags |= {277: short(1), 278: short(size[1]), 279: long(len(strip)), 339: short(sample_format)}
    tags |= {int(name[1:]): value for name, value in more.items()}
    tags[273] = long(8 + 2 + 12 * (len(tags) + 1) + 4)
    directory = b"".join(struct.pack("<HHI4s", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
    return Image.open(io.BytesIO(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4) + strip))


def greys(image: Image.Image) -> list[int]:
    return np.asarray(to_rgb(image))[0, :, 1].tolist()


def test_grey_above_8_bits_is_scaled_by_its_range():
    shorts = struct.pack("<HH", 257 * 100, 0)
    assert greys(tiff(12, bytes([0x80, 0x0F, 0xFF]))) == [128, 255]  # 2048 and 4095
    assert greys(tiff(16, shorts)) == [100, 0]
    assert greys(tiff(16, shorts, photometric=0)) == [155, 255]
    assert greys(tiff(16, shorts, t341=(3, struct.pack("<HH", 51400, 0)))) == [128, 0]  # SMaxSampleValue
    assert greys(tiff(32, struct.pack("<II", 2**31, 2**32 - 1))) == [128, 255]
    assert greys(tiff(8, bytes([100, 0]), photometric=0)) == [155, 255]
    pgm = b"P5 2 1 4095\n" + struct.pack(">HH", 2048, 4095)
    assert greys(Image.open(io.BytesIO(pgm))) == [128, 255]
    transparent = saved(Image.new("I;16", (2, 1), 7), "PNG", transparency=7)
    assert greys(transparent) == [255, 255]


def floats(*values: float, **more) -> Image.Image:
    return tiff(32, struct.pack(f"<{len(values)}f", *values), sample_format=3, size=(len(values), 1), **more)


def test_floats_are_scaled_by_their_range_whatever_single_values_are():
    middle = [0.5] * 20
    assert greys(floats(*middle, float("nan"))) == [128] * 20 + [0]
    assert greys(floats(*middle, 7.0, float("inf"))) == [128] * 20 + [255] * 2
    assert greys(floats(1.0, 2.0, t341=(11, struct.pack("<f", 2.0)))) == [128, 255]


def test_values_that_do_not_fit_their_range_are_named():
    with pytest.raises(ValueError, match="float values range from 0 to 255, and white is 1"):
        to_rgb(floats(0, 100, 255))
    with pytest.raises(ValueError, match="none of its float values is finite"):
        to_rgb(floats(float("nan")))
    with pytest.raises(ValueError, match="values range from 0 to 4095, and white is 4294967295: save it with"):
        to_rgb(tiff(32, struct.pack("<II", 0, 4095)))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
def test_the_size_is_known_before_an_image_is_turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = saved(Image.new("RGB", (8, 4)), kind, exif=exif)
    assert upright_size(opened) == to_rgb(opened).size == (4, 8)
