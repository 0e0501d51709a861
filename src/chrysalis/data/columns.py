"""The columns of a dataset besides the image: label, caption, mask, conditioning image, vector; listed in COLUMNS."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import UnidentifiedImageError

from chrysalis.data.formats import open_image, read_bytes
from chrysalis.data.masks import to_mask
from chrysalis.data.transforms import Resize, in_shape_of, mask_to_training_size, to_training_size

LARGEST = float(np.finfo(np.float32).max)
Values = np.ndarray | tuple[Any, ...]


class BadValue(ValueError):
    """A value of the metadata cannot be used; the message names its key and says what to do."""


class Column:
    """One kind of value, which any image may have or lack.

    Args:
        name: its key in Example.columns, ImageSet.columns and Batch.columns.
        keys: metadata keys to read it from, unless the configuration key `setting` names others; None: `name`.
    """

    suffix: ClassVar[str] = "column"  # last part of `setting`

    def __init__(self, name: str, keys: Sequence[str] | None = None):
        self.name, self.noun, self.setting = name, name.replace("_", " "), f"data.{name}_{self.suffix}"
        self.keys = (name,) if keys is None else tuple(keys)

    def read(self, entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
        """Return the value in a line of metadata or a row of a dataset, None if there is none; see Example.columns.

        Raises:
            ValueError: the value has the wrong type.
        """
        return _first(entry, keys)[1]

    def decode(self, value: Any, whole: tuple[int, int], size: tuple[int, int], resize: Resize) -> Any:
        """Return the value to store. whole: (width, height) of the image's file; size: training (height, width)."""
        return value

    def collect(self, values: Sequence, names: Sequence[str]) -> Values:
        """Combine the stored values of N rows into what `select` takes. names: see ImageSet.value_names."""
        raise NotImplementedError

    def select(self, values: Values, rows: np.ndarray, random_keys: np.ndarray) -> Values:
        """Return the values of the rows of a batch. random_keys: Batch.key."""
        return values[rows]

    def describe(self, names: Sequence[str]) -> str:
        return f"{self.noun}s"


class Labels(Column):
    """One string per row; int64 [N] once collected, -1 where unknown."""

    def read(self, entry: Mapping[str, Any], keys: Sequence[str]) -> str | None:
        key, value = _first(entry, keys)
        if isinstance(value, list):
            raise BadValue(
                f"{key} is a list, and an image has one {self.noun}: write one column of true or false per possible "
                f"{self.noun} and list these in data.vector_columns."
            )
        return _text(value)

    def collect(self, values: Sequence, names: Sequence[str]) -> np.ndarray:
        number = {composed(name): i for i, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
        return np.array([number.get(value, -1) for value in values])

    def describe(self, names: Sequence[str]) -> str:
        return f"{len(names)} {self.noun}s"


class Captions(Column):
    """One string per row, empty where unknown, or a tuple of alternatives, of which each epoch uses one."""

    def read(self, entry: Mapping[str, Any], keys: Sequence[str]) -> str | tuple[str, ...] | None:
        value = _first(entry, keys)[1]
        texts = [_text(item) for item in (value if isinstance(value, list) else [value])]
        distinct = tuple(dict.fromkeys(text for text in texts if text is not None))
        return distinct if len(distinct) > 1 else next(iter(distinct), None)

    def decode(self, value: Any, whole: tuple[int, int], size: tuple[int, int], resize: Resize) -> Any:
        """Return the value, or for a path the text in that file; None if there is no such file."""
        if not isinstance(value, Path):
            return value
        try:
            return clean_text(read_bytes(value).decode("utf-8-sig").strip()) if value.is_file() else None
        except UnicodeDecodeError:
            raise ValueError(f"its {self.noun} {value.name} is not UTF-8 text") from None

    def collect(self, values: Sequence, names: Sequence[str]) -> tuple:
        return tuple(value or "" for value in values)

    def select(self, values: Values, rows: np.ndarray, random_keys: np.ndarray) -> tuple[str, ...]:
        from chrysalis.diffusion import seeds  # imports torch, which decoding processes do not need

        given = [values[row] for row in rows]
        return tuple(
            value if isinstance(value, str) else value[seeds.key("caption", int(key)) % len(value)]
            for value, key in zip(given, random_keys, strict=True)
        )


class Numbers(Column):
    """One number per key, D in all; float32 [N, D] once collected, NaN where unknown."""

    suffix = "columns"

    def read(self, entry: Mapping[str, Any], keys: Sequence[str]) -> tuple[float, ...] | None:
        numbers = tuple(self._number(key, entry.get(key)) for key in keys)
        return numbers if any(key in entry for key in keys) else None

    def _number(self, key: str, value: object) -> float:
        """Return a number within the range of float32; true is 1."""
        if value is None:
            return math.nan
        if not isinstance(value, int | float) or abs(value) > LARGEST:
            where = "" if key in self.keys else f", listed in {self.setting},"
            raise BadValue(f"{key}{where} must be a number within the range of float32, not {value!r:.40}.")
        return float(value)

    def collect(self, values: Sequence, names: Sequence[str]) -> np.ndarray:
        unknown = (math.nan,) * max(len(value or ()) for value in values)
        return np.array([value or unknown for value in values], dtype=np.float32)

    def describe(self, names: Sequence[str]) -> str:
        return f"{self.noun}s of length {len(names)}"


class Images(Column):
    """Another image of the same scene, resized, cropped and mirrored like the image.

    uint8 [N, C, H, W]: C = 3, or C = 1 for a mask, 255 inside and 0 outside. A set has one for every row or none at
    all, see ImageSet.without.
    """

    def __init__(self, name: str, channels: int):
        super().__init__(name, (f"{name}_file_name",))
        self.channels = channels

    def decode(
        self, value: Path | bytes | None, whole: tuple[int, int], size: tuple[int, int], resize: Resize
    ) -> np.ndarray | None:
        if value is None:
            return None
        is_mask = self.channels == 1
        try:
            with open_image(read_bytes(value) if isinstance(value, Path) else value) as opened:
                aligned = in_shape_of(whole, to_mask(opened) if is_mask else opened, resize, nearest=is_mask)
                if is_mask:
                    return mask_to_training_size(aligned, size, resize)
                return to_training_size(aligned, (self.channels, *size), resize)
        except UnidentifiedImageError:
            raise ValueError(f"its {self.noun} is not an image") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"its {self.noun}: {getattr(error, 'strerror', None) or error}") from error


COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Labels("label"),
        Captions("caption", keys=("text", "caption")),
        Images("mask", channels=1),
        Images("conditioning_image", channels=3),
        Numbers("vector", keys=()),
    )
}


def composed(text: str) -> str:
    """Normalize to Unicode NFC. macOS writes é in file names as two characters, which compare as different."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean_text(text: str) -> str:
    """Normalize to NFC and replace control characters and lone surrogates, so that any program can show the text."""
    text = composed(text)
    if text.isprintable():
        return text
    kept = "".join(c if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f") else " " for c in text)
    return kept.encode("utf-8", "replace").decode("utf-8")


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, Any]:
    """Return the first of the keys that an entry has, and its value."""
    return next(((key, entry[key]) for key in keys if key in entry), ("", None))


def _text(value: object) -> str | None:
    if isinstance(value, dict | list):
        raise ValueError(value)
    return None if value is None else clean_text(str(value))
