"""The interface of a data source, and one row of it at training size."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from chrysalis.data.columns import COLUMNS
from chrysalis.data.formats import open_image
from chrysalis.data.transforms import Resize, Shape, deep_to_training_size, is_enlarged, to_training_size, upright_size

LOW = "low"  # the column of the lower bytes of grey images: with them, those of 16 bits keep their precision


@dataclass(frozen=True)
class Example:
    """One row at training size.

    columns: the other values of the row, by column, see data/columns.py: a label is a string, a caption one or a tuple
    of several, a vector a tuple of floats, NaN where unknown, and a mask or conditioning image is uint8 [C, H, W].
    """

    image: np.ndarray  # uint8 [C, H, W]
    content: int  # hash of the image file's bytes, independent of its path
    columns: Mapping[str, Any] = field(default_factory=dict)
    enlarged: bool = False  # whether the file has fewer pixels than needed
    low: np.ndarray | None = None  # uint8 [1, H, W], the lower byte of a grey image of 16 bits


class Source(Protocol):
    """A dataset whose rows are read one by one: an image, and its label, caption and other columns.

    Attributes:
        name: the name that messages use.
        value_names: by column, the names of the numbers in a vector.
        note: a sentence on files that are not used, or "".
        synthetic: whether images are computed instead of decoded. This is done in processes instead of threads, and
            without a search for near-duplicates.
    """

    name: str
    value_names: Mapping[str, tuple[str, ...]] = {}
    note: str = ""
    synthetic: bool = False

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a string that changes whenever what `read` returns would change."""
        ...

    def row_name(self, i: int) -> str: ...

    def read(self, i: int, shape: Shape, resize: Resize) -> Example:
        """Return row i at `shape`, (channels, height, width); raise any exception if its image cannot be used."""
        ...


def decode_example(image: bytes, shape: Shape, resize: Resize, columns: Mapping[str, Any]) -> Example:
    """Decode an image file, and its mask and conditioning image if it has them, to training size.

    columns: as Column.read returns them, with the bytes or the path of image files.
    """
    with open_image(image) as opened:
        whole = upright_size(opened)
        size, channels = shape[1:], shape[0]
        deep = deep_to_training_size(opened, size, resize) if channels == 1 else None
        pixels, low = (to_training_size(opened, shape, resize), None) if deep is None else (deep[:1], deep[1:])
    decoded = {name: COLUMNS[name].decode(value, whole, size, resize) for name, value in columns.items()}
    return Example(pixels, content_hash(image), decoded, is_enlarged(whole, size, resize), low)


def content_hash(data: bytes) -> int:
    """Return a hash in [0, 2**63)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def unique(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names without repetitions; a single name may be a string."""
    return tuple(dict.fromkeys((names,) if isinstance(names, str) else names or ()))
