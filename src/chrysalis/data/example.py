"""One row of a source at training size, and the readers of its image, caption and measurements."""

import hashlib
import math
import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from chrysalis.data.formats import open_image
from chrysalis.data.masks import to_mask
from chrysalis.data.transforms import (
    Resize,
    in_shape_of,
    is_enlarged,
    mask_to_training_size,
    to_training_size,
    upright_size,
)

LARGEST = float(np.finfo(np.float32).max)
LARGEST_FILE = 2**29  # bytes: several are read at once


@dataclass(frozen=True)
class Example:
    """One row at training size. The mask and the conditioning image are resized and cropped like the image."""

    image: np.ndarray  # uint8 [3, H, W]
    content: int  # hash of the image file's bytes, independent of its name and place
    label: str | None = None
    caption: str | tuple[str, ...] | None = None  # a tuple: alternatives
    mask: np.ndarray | None = None  # uint8 [1, H, W]
    conditioning: np.ndarray | None = None  # uint8 [3, H, W], another image of the same scene
    vector: tuple[float, ...] | None = None  # measurements, NaN where unknown
    enlarged: bool = False  # whether the file has fewer pixels than needed


def read_bytes(file: Path) -> bytes:
    """Return the bytes of a regular file of limited size.

    Raises:
        ValueError: it is a folder, a pipe (reading would block), a device (reading may never end) or too large.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file" if stat.S_ISDIR(status.st_mode) else "not a file, but a pipe or a device")
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"a file of {status.st_size / 2**20:.0f} MiB, more than {LARGEST_FILE / 2**20:.0f}")
    return file.read_bytes()


def composed(text: str) -> str:
    """Normalize to Unicode NFC. macOS writes é in file names as two characters, which compare as different."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean_text(text: str) -> str:
    """Normalize to NFC and remove control characters and lone surrogates, so that any program can show the text."""
    text = composed(text)
    if text.isprintable():
        return text
    kept = "".join(c if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f") else " " for c in text)
    return kept.encode("utf-8", "replace").decode("utf-8")


def parse_caption(value: object) -> str | tuple[str, ...] | None:
    """Return a caption, the distinct captions of a list as a tuple, or None.

    Raises:
        ValueError: it is neither text nor a number.
    """
    texts = {}
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, dict | list):
            raise ValueError(text)
        if text is not None:
            texts[clean_text(str(text))] = None
    return tuple(texts) if len(texts) > 1 else next(iter(texts), None)


def content_hash(data: bytes) -> int:
    """Return a hash in [0, 2**63)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def as_measurement(value: object) -> float:
    """Return a number within the range of float32; true is 1, None is NaN.

    Raises:
        ValueError: it is no such number.
    """
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def unique(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names without repetitions; a single name may be a string."""
    return tuple(dict.fromkeys((names,) if isinstance(names, str) else names or ()))


def decode_example(
    data: bytes,
    size: tuple[int, int],
    resize: Resize,
    label: str | None,
    caption: str | tuple[str, ...] | None,
    mask: bytes | None = None,
    conditioning: bytes | None = None,
    vector: tuple[float, ...] | None = None,
) -> Example:
    """Decode an image file, and its mask and conditioning image if it has them, to training size."""
    with open_image(data) as image:
        whole = upright_size(image)
        pixels = to_training_size(image, size, resize)

    def decode_companion(name: str, other: bytes | None, is_mask: bool) -> np.ndarray | None:
        if other is None:
            return None
        try:
            with open_image(other) as opened:
                aligned = in_shape_of(whole, to_mask(opened) if is_mask else opened, resize, nearest=is_mask)
                return (mask_to_training_size if is_mask else to_training_size)(aligned, size, resize)
        except UnidentifiedImageError:
            raise ValueError(f"its {name} is not an image") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"its {name}: {error}") from error

    return Example(
        pixels,
        content_hash(data),
        label,
        caption,
        decode_companion("mask", mask, is_mask=True),
        decode_companion("conditioning image", conditioning, is_mask=False),
        vector,
        is_enlarged(whole, size, resize),
    )
