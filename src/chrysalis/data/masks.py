"""Conversion of mask files of any kind to black and white."""

import numpy as np
from PIL import Image, ImageOps

from chrysalis.data.color import grey_range, grey_values, has_alpha, is_deep

MAX_IDS = 64  # distinct class ids; a photograph or a soft mask of 8 bits has more values
NEAR_WHITE = 7 / 8  # fraction of the range
MAX_ID_BESIDE_WHITE = 1 / 8  # fraction of the range: 0, 1, 255 are ids and an ignore value; 0, 128, 255 a soft mask


def to_mask(image: Image.Image, hole: bool = False) -> Image.Image:
    """Convert a mask to an upright image of mode L, 255 inside and 0 outside.

    Alpha: if any pixel is transparent, opaque pixels (alpha above one half) are inside: a cut-out subject. With `hole`,
    for inpainting, transparent pixels are inside, unless all opaque ones have one light color: a mask painted on a
    transparent layer.
    Palette: indices other than 0 are inside, as class ids are stored; an all-grey palette makes a grey image.
    Class ids: values above 0 are inside if there are at most 64 distinct ones, or more than 8 bits, and none is near
    white (7/8 of the range): 0 and 1, 0 and 2, 0 to 20. Values of a JPEG, whose black is noisy, are never ids.
    Other grey images: values above half of the range of `grey_range` (255, 4095, 65535, 1.0) are inside.
    Color: like grey, by the largest of red, green and blue, so that (128, 0, 0) on black is an id too.

    Raises:
        ValueError: the values are both ids and white (0, 1, 255), or floats above 1 that are not ids.
    """
    # alpha
    upright = ImageOps.exif_transpose(image)
    if has_alpha(upright) and not is_deep(upright):
        rgba = np.asarray(upright.convert("LA" if upright.mode == "La" else "RGBA").convert("RGBA"))
        opaque = rgba[..., 3] > 127
        if not opaque.all():
            return _as_image(~opaque if hole and not _is_light(rgba[opaque]) else opaque)

    # palette
    palette = upright.getpalette() or []
    if upright.mode == "P" and not palette[0::3] == palette[1::3] == palette[2::3]:
        return _as_image(np.asarray(upright) != 0)

    # grey
    if is_deep(upright):
        black, white = grey_range(image)
        values = np.nan_to_num(grey_values(upright, image).astype(np.float64), nan=black, posinf=white, neginf=black)
        values, top = (values - black) * np.sign(white - black), abs(white - black)
        distinct = np.unique(values)
    else:
        grey = _grey(upright)
        values, top, distinct = np.asarray(grey), 255, np.flatnonzero(grey.histogram())
    lossy = image.format in ("JPEG", "MPO")
    return _as_image(values > (top / 2 if lossy else _threshold(distinct, top, is_deep(upright))))


def _threshold(distinct: np.ndarray, top: float, deep: bool) -> float:
    """Return the value above which pixels are inside. distinct: the sorted values of the mask; top: white."""
    largest, few = distinct[-1], len(distinct) <= MAX_IDS
    if largest > 1.01 * top and not few:
        raise ValueError(
            f"its values reach {largest:g} and white is {top:g}: save it with 0 outside and {top:g} inside"
        )
    if largest > 1.01 * top or (largest < NEAR_WHITE * top and (few or (deep and top > 1))):
        return 0
    low = distinct[(distinct > 0) & (distinct < largest)]
    if few and largest == top and low.size and low[-1] <= MAX_ID_BESIDE_WHITE * top:
        raise ValueError(
            f"its values {', '.join(f'{v:g}' for v in (*low[:3], largest))} may be class ids or grey: save it with 0 "
            f"outside and {top:g} inside"
        )
    return top / 2


def _grey(image: Image.Image) -> Image.Image:
    """Convert to mode L, the largest channel."""
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if image.mode == "La" else "L").convert("L")
    return Image.fromarray(
        np.asarray(image.convert("RGBA" if image.mode == "RGBa" else "RGB").convert("RGB")).max(axis=2)
    )


def _is_light(colors: np.ndarray) -> bool:
    """Whether colors, uint8 [N, 4], are all the same light color."""
    return len(colors) > 0 and bool((colors[:, :3] == colors[0, :3]).all()) and int(colors[0, :3].max()) > 127


def _as_image(inside: np.ndarray) -> Image.Image:
    return Image.fromarray(inside * np.uint8(255))
