"""Resizing of images and masks to the training size."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from chrysalis.data.color import to_deep_grey, to_grey, to_rgb, to_rgba
from chrysalis.data.masks import to_mask

Resize = Literal["crop", "stretch", "pad"]
Shape = tuple[int, int, int]  # channels, height and width of images at training size

CONVERSIONS = {1: to_grey, 3: to_rgb, 4: to_rgba}  # for PIL images, by the number of channels of the model's images


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of an image size given as one number or as a pair."""
    height, width = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
    return height, width


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation. Call it before Image.draft, which changes the size."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow rotates these itself
        return width, height
    return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8) else (width, height)


def in_shape_of(whole: tuple[int, int], image: Image.Image, resize: Resize, nearest: bool) -> Image.Image:
    """Give a mask or conditioning image the shape of its image, (width, height) `whole`, so that crops align.

    Small differences are removed by stretching: detectors often round sides to a multiple of their stride.

    Raises:
        ValueError: the aspect ratios differ by more than a tenth.
    """
    width, height = upright_size(image)
    if resize == "stretch" or width * whole[1] == height * whole[0]:
        return image
    if abs(width * whole[1] - height * whole[0]) > 0.1 * height * whole[0]:
        raise ValueError(f"{width} x {height} pixels is a different shape from the image's {whole[0]} x {whole[1]}")
    filter = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return (ImageOps.exif_transpose(image) if nearest else to_rgb(image)).resize(whole, filter)


def is_enlarged(whole: tuple[int, int], size: tuple[int, int], resize: Resize) -> bool:
    """Whether an image of (width, height) `whole` has too few pixels for (height, width) `size`."""
    smaller = whole[0] < size[1], whole[1] < size[0]
    return all(smaller) if resize == "pad" else any(smaller)


def fit(image: Image.Image, size: tuple[int, int], resize: Resize, fill="white", nearest: bool = False) -> Image.Image:
    """Resize to (height, width): `crop` the center, `stretch` both sides, or `pad` with `fill`."""
    target = (size[1], size[0])
    filter = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    if resize == "stretch":
        return image.resize(target, filter)
    if resize == "pad":
        return ImageOps.pad(image, target, filter, color=fill)
    return ImageOps.fit(image, target, filter)


def to_training_size(image: Image.Image, shape: Shape, resize: Resize) -> np.ndarray:
    """Return uint8 [C, H, W]. JPEGs are decoded at 1/2, 1/4 or 1/8 size if that is at least twice the size needed."""
    channels, height, width = shape
    image.draft("RGB", (2 * width, 2 * height))
    fitted = np.asarray(fit(CONVERSIONS[channels](image), (height, width), resize))
    return fitted.reshape(height, width, channels).transpose(2, 0, 1)


def deep_to_training_size(image: Image.Image, size: tuple[int, int], resize: Resize) -> np.ndarray | None:
    """Return grey of 16 bits as its two bytes, uint8 [2, H, W], the higher first; None for an image of 8 bits."""
    deep = to_deep_grey(image)
    if deep is None:
        return None
    values = np.asarray(fit(deep, size, resize, fill=65535))
    return np.stack(np.divmod(values.round().clip(0, 65535).astype(np.uint16), 256)).astype(np.uint8)


def mask_to_training_size(mask: Image.Image, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """Return uint8 [1, H, W], 0 or 255, see `to_mask`; padding counts as outside."""
    return np.asarray(fit(to_mask(mask), size, resize, fill=0, nearest=True))[None]
