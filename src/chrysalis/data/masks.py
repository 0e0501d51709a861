"""Any mask file -> what it marks."""

import numpy as np
from PIL import Image, ImageOps

from chrysalis.data.color import grey_range, grey_values, has_alpha, is_deep

FEW = 64  # distinct values: class ids; a photograph or a soft mask of 8 bits has more
NEAR_WHITE = 7 / 8  # of the range
ID_BESIDE_WHITE = 1 / 8  # of the range: 0, 1 and 255 are ids and an ignore value, 0, 128 and 255 are a soft mask


def marked(image: Image.Image, hole: bool = False) -> Image.Image:
    """What a mask marks: an upright image of mode L, 255 inside and 0 outside.

    Alpha: where it has any transparency, a mask marks what is opaque (alpha above one half): a subject cut out. With
    `hole`, for inpainting, it marks what is transparent, unless all that is opaque has one light color: a mask
    painted on a transparent layer.
    Palette: indices other than 0 are marked, as class ids are stored; if the whole palette is grey it is a grey image.
    Class ids: values above 0 are marked where there are at most 64 distinct ones, or more than 8 bits, and none comes
    near white (7/8 of the range): 0 and 1, 0 and 2, 0 to 20. Of a JPEG, whose black is noisy, none are ids.
    Grey otherwise: values above half of the range are marked, which is that of `grey_range`: 255, 4095, 65535, 1.0.
    Color: as grey, by the largest of red, green and blue, so that (128, 0, 0) on black is an id like any other.

    Raises:
        ValueError: the values are both ids and white (0, 1, 255), or floats above 1 that are no ids.
    """
    # alpha
    upright = ImageOps.exif_transpose(image)
    if has_alpha(upright) and not is_deep(upright):
        rgba = np.asarray(upright.convert("LA" if upright.mode == "La" else "RGBA").convert("RGBA"))
        opaque = rgba[..., 3] > 127
        if not opaque.all():
            return _as_image(~opaque if hole and not _is_light(rgba[opaque]) else opaque)

    # palette
    if upright.mode == "P" and not _is_grey(upright.getpalette()):
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
    """Marked is what lies above it. distinct: the values that there are, sorted; top: white."""
    largest, few = distinct[-1], len(distinct) <= FEW
    if largest > 1.01 * top and not few:
        raise ValueError(
            f"its values reach {largest:g}, and white is {top:g}: save it with 0 outside and {top:g} inside"
        )
    if largest > 1.01 * top or (largest < NEAR_WHITE * top and (few or (deep and top > 1))):
        return 0
    low = distinct[(distinct > 0) & (distinct < largest)]
    if few and largest == top and low.size and low[-1] <= ID_BESIDE_WHITE * top:
        raise ValueError(
            f"its values {', '.join(f'{v:g}' for v in (*low[:3], largest))} may be class ids or grey: save it with 0 "
            f"outside and {top:g} inside"
        )
    return top / 2


def _grey(image: Image.Image) -> Image.Image:
    """Mode L: the largest channel."""
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if image.mode == "La" else "L").convert("L")
    return Image.fromarray(
        np.asarray(image.convert("RGBA" if image.mode == "RGBa" else "RGB").convert("RGB")).max(axis=2)
    )


def _is_grey(palette: list[int]) -> bool:
    return palette[0::3] == palette[1::3] == palette[2::3]


def _is_light(colors: np.ndarray) -> bool:
    """Whether colors, uint8 [N, 4], are one, and a light one."""
    return len(colors) > 0 and bool((colors[:, :3] == colors[0, :3]).all()) and int(colors[0, :3].max()) > 127


def _as_image(inside: np.ndarray) -> Image.Image:
    return Image.fromarray(inside * np.uint8(255))
