"""The decoded images of a source: a fingerprinted, memory-mapped uint8 store in the user's cache folder."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from chrysalis.data.columns import COLUMNS, Images, Values
from chrysalis.data.decoding import decode, describe_rejected
from chrysalis.data.source import LOW, Source, content_hash
from chrysalis.data.transforms import Resize, Shape
from chrysalis.system.errors import UserError
from chrysalis.system.files import cache_folder, write_text, written_folder
from chrysalis.system.terminal import warn

FORMAT = 6  # version of the files in a set's folder; part of the cache key
CHECKSUMS = "checksums.json"  # sizes, times and hashes of the other files
ALWAYS_READ = 2**28  # bytes, hashed in half a second: larger files are hashed again only if their time has changed


@dataclass(frozen=True)
class ImageSet:
    """N decoded rows. Arrays of images are memory-mapped and read-only; the rest is in memory.

    Attributes:
        images: uint8 [N, C, H, W].
        columns: by name, the values of all rows, see data/columns.py; only columns that the data has.
        value_names: by column, the label names in the order of their indices, and the names of a vector's numbers.
        contents: int64 [N], a hash of each image's bytes.
        rejected: (name, reason) of unreadable images.
        without: by mask or image column that only some rows have, the names of the others; `columns` leaves it out.
        mask_note: a sentence on masks that mark nothing or everything, or "".
        enlarged: number of images with fewer pixels than the training size.
        near_duplicates: groups of row numbers.
    """

    images: np.ndarray
    columns: Mapping[str, Values]
    value_names: Mapping[str, tuple[str, ...]]
    contents: np.ndarray
    names: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    folder: Path
    without: Mapping[str, tuple[str, ...]]
    mask_note: str
    enlarged: int
    near_duplicates: tuple[tuple[int, ...], ...]

    def __reduce__(self):
        """Pickle the folder instead of the images: a worker process opens it again."""
        return open_folder, (self.folder, self.value_names)

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays of images: `image`, and the columns of images."""
        columns = {
            name: np.asarray(v) for name, v in self.columns.items() if name == LOW or isinstance(COLUMNS[name], Images)
        }
        return {"image": self.images, **columns}

    def enlarged_note(self) -> str:
        """Return a sentence on images with fewer pixels than the training size, or ""."""
        height, width = self.images.shape[-2:]
        verb = " is" if self.enlarged == 1 else "s are"
        return f"{self.enlarged} image{verb} smaller than {width} x {height} px and enlarged." * (self.enlarged > 0)

    def near_duplicates_note(self) -> str:
        """Return a sentence on near-duplicates, with the names of two, or ""."""
        if not self.near_duplicates:
            return ""
        n = sum(map(len, self.near_duplicates))
        examples = " and ".join(Path(self.names[row]).name for row in self.near_duplicates[0][:2])
        if len(self.near_duplicates[0]) == len(self):
            return f"All images are near-duplicates ({examples}): the validation loss says nothing about new images."
        return f"{n} images are near-duplicates of others ({examples}): each group stays on one side of the split."

    def distinct(self, rows: np.ndarray) -> np.ndarray:
        """Drop rows whose image has the same bytes as an earlier one."""
        _, first = np.unique(self.contents[rows], return_index=True)
        return rows[np.sort(first)]

    def split(self, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Split rows by a hash of each image's bytes, independent of order and names.

        Near-duplicates fall on the same side. Both sides have at least one row.

        Returns:
            training rows in order, and validation rows in the order of their hashes; int64.
        """
        if len(set(self.contents.tolist())) < 2:
            raise UserError(f"All images are identical to {self.names[0]}: add a different one.")
        group = self._groups()
        place = np.array([content_hash(int(least).to_bytes(8, "big")) for least in group]) / 2**63  # in [0, 1)
        groups, counts = np.unique(group, return_counts=True)
        if 2 * counts.max() > len(group):  # a group of more than half of the images goes to training
            place[group == groups[counts.argmax()]] = 1
        validation = place < val_fraction
        if not validation.any():
            validation = group == group[place.argmin()]
        if validation.all():
            validation = group != group[place.argmax()]
        order = np.argsort(place, kind="stable")
        return np.flatnonzero(~validation), order[validation[order]]

    def _groups(self) -> np.ndarray:
        """Return the least content hash of each row's near-duplicates; its own if all rows are near-duplicates."""
        group = self.contents.copy()
        for rows in self.near_duplicates:
            group[list(rows)] = self.contents[list(rows)].min()
        return group if len(np.unique(group)) > 1 else self.contents


def open_set(source: Source, shape: Shape, resize: Resize) -> ImageSet:
    """Open the decoded set in the cache; decode it first if it is missing, damaged or out of date."""
    key = content_hash(f"{FORMAT} {source.fingerprint()} {shape} {resize}{LOW * (shape[0] == 1)}".encode())
    folder = cache_folder() / f"{shape[1]}x{shape[2]}-{key:016x}"
    if damaged_file(folder):
        _decode_once(source, shape, resize, folder)
    image_set = open_folder(folder)
    if image_set.rejected:
        reasons = describe_rejected(image_set.rejected, 10)
        warn(f"{len(image_set.rejected)} of {len(source)} images cannot be read and are left out: {reasons}.")
    if image_set.mask_note:
        warn(image_set.mask_note)
    return image_set


def _decode_once(source: Source, shape: Shape, resize: Resize, folder: Path) -> None:
    """Decode the set, or wait if another process is decoding it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        for abandoned in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(abandoned, ignore_errors=True)
        damage, needed = damaged_file(folder), 4 * len(source) * math.prod(shape)
        if not damage:
            return
        if folder.is_dir():
            warn(f"The cached images in {folder} are damaged ({damage}): decoding them again.")
        require_space(folder.parent, needed, "the decoded images may need")  # with masks and conditioning images
        with written_folder(folder) as partial_folder:
            decode(source, shape, resize, partial_folder)
            checksums = {file.name: [*_stamp(file), _digest(file)] for file in sorted(partial_folder.iterdir())}
            write_text(partial_folder / CHECKSUMS, json.dumps(checksums))


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError unless the disk of a folder of the cache has so many bytes free. what: begins the reason."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"{folder} has {free / 2**30:.1f} GiB free, and {what} {needed / 2**30:.1f} GiB: free space there or set "
            "CHRYSALIS_CACHE to another folder."
        )


def damaged_file(folder: Path) -> str | None:
    """Return the name of a file that is missing or changed, or None if all are intact."""
    try:
        recorded = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name, (size, time, digest) in recorded.items():
            stamp = _stamp(folder / name)
            trusted = size > ALWAYS_READ and stamp == (size, time)
            if stamp[0] != size or not (trusted or _digest(folder / name) == digest):
                return name
    except FileNotFoundError as error:
        return Path(error.filename).name
    except (ValueError, TypeError, AttributeError, OSError):
        return CHECKSUMS
    return None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def open_folder(folder: Path, value_names: Mapping[str, Sequence[str]] | None = None) -> ImageSet:
    """Open a decoded set. value_names: by column, the order of its labels; by default they are sorted."""
    try:
        fields = _as_tuples(json.loads((folder / "rows.json").read_text(encoding="utf-8")))
        shapes, lists = fields.pop("shapes"), fields.pop("lists")
        arrays = {name: np.memmap(folder / f"{name}.bin", np.uint8, "r", 0, shape) for name, shape in shapes.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"The cached images in {folder} are damaged ({error}): remove this folder.") from error
    fields["contents"] = np.array(fields["contents"], dtype=np.int64)
    fields["value_names"] = names = fields["value_names"] | _as_tuples(dict(value_names or {}))
    columns = {name: COLUMNS[name].collect(values, names.get(name, ())) for name, values in lists.items()}
    return ImageSet(images=arrays.pop("image"), columns={**arrays, **columns}, folder=folder, **fields)


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tuples(item) for name, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
