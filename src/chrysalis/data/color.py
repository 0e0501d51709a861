"""Conversion of images of any mode, depth and color profile to 8-bit sRGB, grey or sRGB with transparency."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

# TIFF tags
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, S_MIN, S_MAX = 258, 262, 339, 340, 341
WHITE_IS_ZERO, SIGNED = 0, 2

MAX_OUTSIDE = 0.1  # fraction of a float image's values outside its range: highlights, ringing, missing values


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to upright 8-bit sRGB, see `to_srgb`; transparent images are composited over white."""
    converted = to_srgb(image)
    if converted.mode == "RGB":
        return converted
    return Image.alpha_composite(Image.new("RGBA", converted.size, "white"), converted).convert("RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert to upright 8-bit sRGB with an alpha channel, which is opaque where the image has none."""
    return to_srgb(image).convert("RGBA")


def to_grey(image: Image.Image) -> Image.Image:
    """Convert to upright 8-bit grey, the luma (ITU-R BT.601) of `to_rgb`."""
    return to_rgb(image).convert("L")


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert to upright 8-bit sRGB, of mode RGBA for images with transparency and RGB for others.

    EXIF orientation is applied. Grey of more than 8 bits is scaled by the range of its format, see `grey_range`. Colors
    are converted from the embedded ICC profile, or taken as sRGB without one; a damaged or unsuitable profile is
    ignored.

    Raises:
        ValueError: the values of a 32-bit image lie outside its range, or so close together that it would be uniform.
    """
    profile, upright = image.info.get("icc_profile"), ImageOps.exif_transpose(image)
    if is_deep(image):
        upright = _eight_bits(upright, *grey_range(image), image)
    if has_alpha(upright):
        rgba = upright.convert("LA" if upright.mode == "La" else "RGBA").convert("RGBA")
        if profile:
            colors = rgba.getchannel("R") if upright.mode in ("1", "L", "LA", "La") else rgba.convert("RGB")
            managed = _to_srgb(colors, profile)
            managed.putalpha(rgba.getchannel("A"))
            rgba = managed
        return rgba
    return _to_srgb(upright, profile)


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _tag(image: Image.Image, tag: int, default=None):
    """Return the first value of a TIFF tag."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) and value else value


def grey_range(image: Image.Image) -> tuple[float, float]:
    """Return the values of black and white in an image that `is_deep`.

    They are SMinSampleValue and SMaxSampleValue of a TIFF; without these, 0 and the largest value of its bits per
    sample, or 1 for floats. WhiteIsZero swaps the two. Other files have 16 bits, to which Pillow scales them.
    """
    bits, signed = int(_tag(image, BITS_PER_SAMPLE, 16)), _tag(image, SAMPLE_FORMAT) == SIGNED
    largest = 1 if image.mode == "F" else 2 ** (bits - signed) - 1
    low, high = _tag(image, S_MIN, 0), _tag(image, S_MAX, largest)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        low, high = 0, largest
    return (high, low) if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO else (low, high)


def grey_values(upright: Image.Image, opened: Image.Image) -> np.ndarray:
    """Return the values of an image that `is_deep`. opened: the image as opened, which has its TIFF tags."""
    values = np.asarray(upright)
    unsigned = opened.mode == "I" and _tag(opened, BITS_PER_SAMPLE) == 32 and _tag(opened, SAMPLE_FORMAT) != SIGNED
    return values.view(np.uint32) if unsigned else values


def to_deep_grey(image: Image.Image) -> Image.Image | None:
    """Convert an image that `is_deep` to upright grey of mode F, 0 to 65535.

    None for any other image, and for one with transparency or a color profile, which is converted with 8 bits.
    """
    if not is_deep(image) or has_alpha(image) or image.info.get("icc_profile"):
        return None
    upright = ImageOps.exif_transpose(image)
    values = _fractions(upright, grey_values(upright, image), *grey_range(image))
    return Image.fromarray((65535 * values).clip(0, 65535).astype(np.float32))


def _eight_bits(upright: Image.Image, black: float, white: float, opened: Image.Image) -> Image.Image:
    """Scale an image that `is_deep` to mode L, or LA if one value means transparent."""
    stored = grey_values(upright, opened)
    image = Image.fromarray(np.clip(_fractions(upright, stored, black, white) * 255 + 0.5, 0, 255).astype(np.uint8))
    transparent = upright.info.get("transparency")
    if isinstance(transparent, int):
        image.putalpha(Image.fromarray((stored != transparent) * np.uint8(255)))
    return image


def _fractions(upright: Image.Image, stored: np.ndarray, black: float, white: float) -> np.ndarray:
    """Scale grey values to 0 for black and 1 for white; raises ValueError as `to_srgb` does."""
    values = stored.astype(np.float64 if upright.mode == "I" else np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its float values is finite: save it with values that are")
    if upright.mode == "F":
        low, high = sorted((black, white))
        margin = 0.01 * (high - low)
        if ((finite < low - margin) | (finite > high + margin)).mean() > MAX_OUTSIDE:
            raise ValueError(
                f"its float values range from {finite.min():g} to {finite.max():g}, and white is {white:g}: "
                f"scale them to lie between {low:g} and {high:g}"
            )
    values = np.nan_to_num((values - black) / (white - black), nan=0.0, posinf=1.0, neginf=0.0)
    levels = np.clip(np.array([values.min(), values.max()]) * 255 + 0.5, 0, 255).astype(np.uint8)
    if upright.mode == "I" and levels[0] == levels[1] and finite.min() < finite.max():
        raise ValueError(
            f"its values range from {finite.min():.0f} to {finite.max():.0f}, and white is {white:.0f}: "
            "save it with 8 or 16 bits"
        )
    return values


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an opaque image of at most 8 bits to RGB."""
    if image.mode == "LAB":
        return _from_lab().apply(image)
    transform = _transform(profile) if profile else None
    if transform is None:
        return image.convert("RGB")
    mode = transform.input_mode
    if image.mode in ("1", "L") and mode == "L":
        return transform.apply(image.convert("L"))
    # a grey image with an RGB profile means R = G = B, which is grey
    if (image.mode == "CMYK") != (mode == "CMYK") or mode == "L":
        return image.convert("RGB")
    return transform.apply(image.convert(mode))


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from an ICC profile to sRGB, relative colorimetric with black point compensation.

    None if littleCMS cannot use the profile, or if it equals sRGB up to rounding, so that pixels stay unchanged.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(opened.profile.xcolor_space.strip())
        if mode is None:
            return None
        options = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", *options)
        if mode == "RGB":
            levels = np.linspace(0, 255, 16).astype(np.uint8)
            cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
            converted = np.asarray(transform.apply(Image.fromarray(cube)))
            if np.abs(converted.astype(int) - cube).max() <= 1:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None
    return transform


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    """Build the transform from CIELAB under D50, as TIFF defines it, to sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
