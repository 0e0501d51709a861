"""Any decoded image -> 8-bit sRGB."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

# TIFF tags
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, S_MIN, S_MAX = 258, 262, 339, 340, 341
WHITE_IS_ZERO, SIGNED = 0, 2

OUTSIDE = 0.1  # of a float image's values may lie outside its range: highlights, ringing, marks for missing ones


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit sRGB.

    EXIF orientation is applied, grey above 8 bits is scaled by the range of its format (see `grey_range`), colours are
    converted from the embedded ICC profile, without one are sRGB, and transparency is laid over white. A profile that
    is damaged or made for another kind of image is ignored.

    Raises:
        ValueError: 32-bit values fit their range so badly that the image would be black or clipped.
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
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return _to_srgb(upright, profile)


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey with more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _tag(image: Image.Image, tag: int, default=None):
    """The first value of a TIFF tag."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) and value else value


def grey_range(image: Image.Image) -> tuple[float, float]:
    """The values that mean black and white in an image that `is_deep`.

    These are a TIFF's SMinSampleValue and SMaxSampleValue where it has them; else 0 and the largest value of its bits
    per sample, and for floats 1. WhiteIsZero swaps the two. Other files have 16 bits: Pillow scales them to it.
    """
    bits, signed = int(_tag(image, BITS_PER_SAMPLE, 16)), _tag(image, SAMPLE_FORMAT) == SIGNED
    low, high = _tag(image, S_MIN, 0), _tag(image, S_MAX, 1 if image.mode == "F" else 2 ** (bits - signed) - 1)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        low, high = 0, 1 if image.mode == "F" else 2 ** (bits - signed) - 1
    return (high, low) if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO else (low, high)


def grey_values(upright: Image.Image, opened: Image.Image) -> np.ndarray:
    """The numbers of an image that `is_deep`. opened: the same as it was opened, which knows its TIFF tags."""
    values = np.asarray(upright)
    unsigned = opened.mode == "I" and _tag(opened, BITS_PER_SAMPLE) == 32 and _tag(opened, SAMPLE_FORMAT) != SIGNED
    return values.view(np.uint32) if unsigned else values


def _eight_bits(upright: Image.Image, black: float, white: float, opened: Image.Image) -> Image.Image:
    stored = grey_values(upright, opened)
    values = stored.astype(np.float64 if upright.mode == "I" else np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its float values is finite")
    if upright.mode == "F":
        low, high = sorted((black, white))
        margin = 0.01 * (high - low)
        if ((finite < low - margin) | (finite > high + margin)).mean() > OUTSIDE:
            raise ValueError(
                f"its float values reach from {finite.min():g} to {finite.max():g}, and white is {white:g}: "
                f"scale them to lie between {low:g} and {high:g}"
            )
    values = np.nan_to_num((values - black) / (white - black), nan=0.0, posinf=1.0, neginf=0.0)
    grey = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
    if upright.mode == "I" and grey.min() == grey.max() and finite.min() < finite.max():
        raise ValueError(
            f"its values reach from {finite.min():.0f} to {finite.max():.0f}, and white is {white:.0f}: "
            "save it with 8 or 16 bits"
        )
    image = Image.fromarray(grey)
    transparent = upright.info.get("transparency")
    if isinstance(transparent, int):
        image.putalpha(Image.fromarray((stored != transparent) * np.uint8(255)))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, from an opaque image of at most 8 bits."""
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _from_lab())
    transform = _transform(profile) if profile else None
    if transform is None:
        return image.convert("RGB")
    mode = transform.input_mode
    if image.mode in ("1", "L") and mode == "L":
        return ImageCms.applyTransform(image.convert("L"), transform)
    # R = G = B of an RGB profile is grey, which is what a grey image with such a profile means
    if (image.mode == "CMYK") != (mode == "CMYK") or mode == "L":
        return image.convert("RGB")
    return ImageCms.applyTransform(image.convert(mode), transform)


MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """From an ICC profile to sRGB, relative colorimetric with black point compensation.

    None if littleCMS cannot use the profile, or if it is sRGB itself but for rounding, so that pixels stay as they are.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES.get(opened.profile.xcolor_space.strip())
        if mode is None:
            return None
        how = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", *how)
        if mode == "RGB":
            levels = np.linspace(0, 255, 16).astype(np.uint8)
            cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
            converted = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
            if np.abs(converted.astype(int) - cube).max() <= 1:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None
    return transform


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    """CIELAB under D50, which is a TIFF's."""
    how = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB", how)
