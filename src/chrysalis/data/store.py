"""The decoded images of a source: a fingerprinted, memory-mapped uint8 store in the user's cache folder."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from chrysalis.data import checksums, garbage_collection
from chrysalis.data.decoding import decode, describe_rejected
from chrysalis.data.example import composed, content_hash
from chrysalis.data.source import Source
from chrysalis.data.transforms import Resize
from chrysalis.diffusion import seeds
from chrysalis.system.errors import UserError
from chrysalis.system.files import cache_folder
from chrysalis.system.terminal import warn

FORMAT = 4


@dataclass(frozen=True)
class ImageSet:
    """N decoded rows. Arrays are memory-mapped and read-only; the rest is in memory.

    All rows have a mask (a conditioning image), or `masks` (`conditionings`) is None; then without_mask
    (without_conditioning) names the rows that lack one, if others have one.
    """

    images: np.ndarray  # uint8 [N, 3, H, W]
    masks: np.ndarray | None  # uint8 [N, 1, H, W]
    labels: np.ndarray | None  # int64 [N], -1 where unknown
    label_names: tuple[str, ...]
    captions: tuple[str | tuple[str, ...], ...] | None  # a tuple: alternatives, of which each epoch takes one
    contents: np.ndarray  # int64 [N], a hash of each image's bytes
    names: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]  # (name, reason) of unreadable images
    folder: Path
    conditionings: np.ndarray | None = None  # uint8 [N, 3, H, W]
    vectors: np.ndarray | None = None  # float32 [N, D], NaN where unknown
    vector_names: tuple[str, ...] = ()
    without_mask: tuple[str, ...] = ()
    without_conditioning: tuple[str, ...] = ()
    empty_masks: tuple[str, ...] = ()  # names of rows whose mask marks nothing
    full_masks: tuple[str, ...] = ()  # or everything
    enlarged: int = 0  # number of images with fewer pixels than the training size
    near_duplicates: tuple[tuple[int, ...], ...] = ()  # groups of rows

    def __reduce__(self):
        """Pickle the folder instead of the images: a worker process opens it again."""
        return open_folder, (self.folder, self.label_names)

    def __len__(self) -> int:
        return len(self.images)

    def caption(self, row: int, key: int) -> str:
        """Return a row's caption, or one of its alternatives chosen by the key, which differs between epochs."""
        assert self.captions is not None  # callers ask for captions of sets that have them
        caption = self.captions[row]
        return caption if isinstance(caption, str) else caption[seeds.key("caption", int(key)) % len(caption)]

    def enlarged_note(self) -> str:
        """Return a sentence on images with fewer pixels than the training size, or ""."""
        height, width = self.images.shape[-2:]
        verb = "is" if self.enlarged == 1 else "are"
        return f"{self.enlarged} of them {verb} smaller than {width} x {height} px and enlarged." * (self.enlarged > 0)

    def near_duplicates_note(self) -> str:
        """Return a sentence on near-duplicates, with the names of two, or ""."""
        if not self.near_duplicates:
            return ""
        n = sum(map(len, self.near_duplicates))
        examples = " and ".join(Path(self.names[row]).name for row in self.near_duplicates[0][:2])
        if len(self.near_duplicates[0]) == len(self):
            return f"All images are near-duplicates ({examples}): the validation loss says nothing about new images."
        return f"{n} images are near-duplicates of others ({examples}), which all stay on one side of the split."

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
            raise UserError("All images are identical: training and validation need at least two different ones.")
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
        """Return the least content hash among a row's near-duplicates; its own if all rows are near-duplicates."""
        group = self.contents.copy()
        for rows in self.near_duplicates:
            group[list(rows)] = self.contents[list(rows)].min()
        return group if len(np.unique(group)) > 1 else self.contents


def open_set(source: Source, size: tuple[int, int], resize: Resize) -> ImageSet:
    """Open the decoded set in the cache; decode it first if it is missing, damaged or out of date."""
    key = content_hash(f"{FORMAT} {source.fingerprint()} {size} {resize}".encode())
    folder = cache_folder() / f"{size[0]}x{size[1]}-{key:016x}"
    if checksums.damaged(folder):
        _decode_once(source, size, resize, folder)
    image_set = open_folder(folder)
    if image_set.rejected:
        reasons = describe_rejected(image_set.rejected, 10)
        warn(f"{len(image_set.rejected)} of {len(source)} images cannot be read and are left out: {reasons}.")
    if image_set.masks is not None and (image_set.empty_masks or image_set.full_masks):
        warn(_mask_note(image_set))
    return image_set


def _mask_note(image_set: ImageSet) -> str:
    """Return a sentence on masks that mark nothing or everything."""
    kinds = {"empty": image_set.empty_masks, "full": image_set.full_masks}
    for kind, names in kinds.items():
        if len(names) == len(image_set):
            return (
                f"All {len(names)} masks are {kind}: a mask must be white, opaque or a class id above 0 where it marks "
                "the subject."
            )
    counted = "; ".join(
        f"{len(names)} {kind} (of {', '.join(names[:3])}{' ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
        if names
    )
    return f"Some of {len(image_set)} masks mark nothing or everything: {counted}."


def _decode_once(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    """Decode the set unless another process does so meanwhile; then wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        for abandoned in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(abandoned, ignore_errors=True)
        damage = checksums.damaged(folder)
        if damage and folder.is_dir():
            warn(f"The cached images in {folder} are damaged ({damage}): decoding them again.")
        if damage:
            decode(source, size, resize, folder)


@garbage_collection.paused()
def open_folder(folder: Path, label_names: Sequence[str] | None = None) -> ImageSet:
    """Open a decoded set. label_names: in the order of their numbers; None: those of the images, sorted."""
    try:
        listing = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks, conditionings, vectors = (
            np.load(file, mmap_mode="r") if (file := folder / f"{name}.npy").is_file() else None
            for name in ("masks", "conditionings", "vectors")
        )
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"The cached images in {folder} are damaged ({error}): remove this folder.") from error
    names, contents, labels, captions = zip(*listing.pop("rows"), strict=True)
    label_names = tuple(
        sorted({label for label in labels if label is not None}) if label_names is None else label_names
    )
    number = {composed(name): i for i, name in enumerate(label_names)} | {n: i for i, n in enumerate(label_names)}
    return ImageSet(
        images=images,
        masks=masks,
        labels=np.array([number.get(label, -1) for label in labels]) if label_names else None,
        label_names=label_names,
        captions=tuple(tuple(c) if isinstance(c, list) else c or "" for c in captions) if any(captions) else None,
        contents=np.array(contents, dtype=np.int64),
        names=names,
        folder=folder,
        conditionings=conditionings,
        vectors=vectors,
        **{field: _as_tuples(value) for field, value in listing.items()},
    )


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
