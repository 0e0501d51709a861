"""One row at training size, from the bytes of its files."""

import hashlib
import math
import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from chrysalis.data.formats import open_image
from chrysalis.data.masks import marked
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
    """One row at training size. `content` is a hash of the image's own bytes, whatever its name or place.

    mask and conditioning, another image of the same scene, are resized and cropped exactly like the image;
    vector holds measurements, NaN where one is unknown. enlarged: whether the file has fewer pixels than needed.
    """

    image: np.ndarray  # uint8 [3, H, W]
    content: int
    label: str | None = None
    caption: str | tuple[str, ...] | None = None  # a tuple: alternatives
    mask: np.ndarray | None = None  # uint8 [1, H, W]
    conditioning: np.ndarray | None = None  # uint8 [3, H, W]
    vector: tuple[float, ...] | None = None
    enlarged: bool = False


def contents(file: Path) -> bytes:
    """The bytes of a file; ValueError for a pipe, which would be waited for, and a device, which may never end."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file" if stat.S_ISDIR(status.st_mode) else "not a file, but a pipe or a device")
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"a file of {status.st_size / 2**20:.0f} MiB, more than {LARGEST_FILE / 2**20:.0f}")
    return file.read_bytes()


def composed(text: str) -> str:
    """Normalize to NFC: macOS writes é in a file's name as two characters, which look the same and are not equal."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def cleaned(text: str) -> str:
    """As it can be compared, written and shown anywhere: NFC, without control characters and halves of characters."""
    text = composed(text)
    if text.isprintable():
        return text
    kept = "".join(c if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f") else " " for c in text)
    return kept.encode("utf-8", "replace").decode("utf-8")


def alternatives(found: object) -> str | tuple[str, ...] | None:
    """A caption as metadata holds it, or of a list of captions each distinct one; None where there is none.

    Raises:
        ValueError: for what is no text, nor a number.
    """
    texts = {}
    for text in found if isinstance(found, list) else [found]:
        if isinstance(text, dict | list):
            raise ValueError(text)
        if text is not None:
            texts[cleaned(str(text))] = None
    return tuple(texts) if len(texts) > 1 else next(iter(texts), None)


def content_hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def measurement(value: object) -> float:
    """A number as float32 can hold it, 1 for true, NaN if it is unknown; ValueError for anything else."""
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def each_once(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Each name once; one alone may come without brackets."""
    return tuple(dict.fromkeys((names,) if isinstance(names, str) else names or ()))


def decoded(
    data: bytes,
    size: tuple[int, int],
    resize: Resize,
    label: str | None,
    caption: str | tuple[str, ...] | None,
    mask: bytes | None = None,
    conditioning: bytes | None = None,
    vector: tuple[float, ...] | None = None,
) -> Example:
    """The row of an image file and, where there are such, of its mask's and its conditioning image's file."""
    with open_image(data) as image:
        whole = upright_size(image)
        pixels = to_training_size(image, size, resize)

    def beside(what: str, other: bytes | None, resized: Callable) -> np.ndarray | None:
        if other is None:
            return None
        try:
            with open_image(other) as opened:
                is_mask = what == "mask"
                return resized(in_shape_of(whole, marked(opened) if is_mask else opened, resize, is_mask), size, resize)
        except UnidentifiedImageError:
            raise ValueError(f"its {what} is not an image") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"its {what}: {error}") from error

    laid = beside("mask", mask, mask_to_training_size), beside("conditioning image", conditioning, to_training_size)
    return Example(pixels, content_hash(data), label, caption, *laid, vector, is_enlarged(whole, size, resize))
