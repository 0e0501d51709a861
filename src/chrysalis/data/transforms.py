"""Any picture file -> RGB at the training size."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageOps

from chrysalis.errors import UserError

Resize = Literal["crop", "stretch", "pad"]


def checked_size(image_size: int | tuple[int, int], key: str = "data.image_size") -> tuple[int, int]:
    """An image size, as the user set it by `key`, as (height, width)."""
    pair = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(pair) != 2 or any(not isinstance(s, int) or isinstance(s, bool) or not 8 <= s <= 4096 for s in pair):
        raise UserError(f"{key}={image_size} must be a number of pixels from 8 to 4096, or [height,width].")
    return pair


def checked_resize(resize: str) -> Resize:
    if resize not in get_args(Resize):
        raise UserError(f"data.resize={resize} is unknown: choose crop, stretch or pad.")
    return resize


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB: EXIF rotation applied, transparency laid over white, 16 bit scaled, CMYK converted."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float32)
        top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        if image.mode == "F" and values.max(initial=0) <= 1:
            top = 1.0
        image = Image.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once EXIF rotation is applied; of the whole picture, so ask before a draft is decoded."""
    width, height = image.size
    return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8) else (width, height)


def in_shape_of(whole: tuple[int, int], image: Image.Image, resize: Resize, nearest: bool) -> Image.Image:
    """`image`, which shows all that a picture of (width, height) `whole` shows, so that both are cropped alike.

    Detectors round sides to multiples of their own; a quite different shape is a ValueError.
    """
    width, height = upright_size(image)
    if resize == "stretch" or width * whole[1] == height * whole[0]:
        return image
    if abs(width * whole[1] - height * whole[0]) > 0.1 * height * whole[0]:
        raise ValueError(f"{width} x {height} pixels are another shape than the picture's {whole[0]} x {whole[1]}")
    filter = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return (ImageOps.exif_transpose(image) if nearest else to_rgb(image)).resize(whole, filter)


def fit(image: Image.Image, size: tuple[int, int], resize: Resize, fill="white", nearest: bool = False) -> Image.Image:
    """To (height, width): `crop` the centre, `stretch` both sides, or `pad` with `fill` to the whole picture."""
    target = (size[1], size[0])
    filter = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    if resize == "stretch":
        return image.resize(target, filter)
    if resize == "pad":
        return ImageOps.pad(image, target, filter, color=fill)
    return ImageOps.fit(image, target, filter)


def to_training_size(image: Image.Image, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """uint8 [3, H, W]. JPEGs decode at a half, quarter or eighth where that still has twice the pixels needed."""
    image.draft("RGB", (2 * size[1], 2 * size[0]))
    return np.asarray(fit(to_rgb(image), size, resize)).transpose(2, 0, 1)


def mask_to_training_size(mask: Image.Image, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """uint8 [1, H, W], 0 or 255; padding counts as outside."""
    fitted = fit(ImageOps.exif_transpose(mask).convert("L"), size, resize, fill=0, nearest=True)
    values = np.asarray(fitted)
    inside = values > (127 if values.max(initial=0) > 1 else 0)  # some tools write masks as 0 and 1
    return (inside * np.uint8(255))[None]
