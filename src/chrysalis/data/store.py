"""Images decoded once: a fingerprinted, memory-mapped uint8 store under the user's cache folder."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from chrysalis.data import checksums
from chrysalis.data.decoding import decode, listed
from chrysalis.data.example import composed, content_hash
from chrysalis.data.listing import uncollected
from chrysalis.data.sources import Source
from chrysalis.data.transforms import Resize
from chrysalis.diffusion import seeds
from chrysalis.system.errors import UserError
from chrysalis.system.files import cache_folder
from chrysalis.system.terminal import warn

FORMAT = 4


@dataclass(frozen=True)
class ImageSet:
    """images uint8 [N, 3, H, W], and masks uint8 [N, 1, H, W] and conditionings uint8 [N, 3, H, W] or None.

    These and vectors are memory-mapped and cannot be written to; the rest is in memory. There are
    masks (conditionings) for every row or there are None; without_mask (without_conditioning) names the rows that
    lack one although others have it.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray | None  # int64 [N], -1 where unknown
    label_names: tuple[str, ...]
    captions: tuple[str | tuple[str, ...], ...] | None  # a tuple: alternatives, of which an epoch has one
    contents: np.ndarray  # int64 [N], a hash of each image's bytes
    names: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]  # (name, why)
    folder: Path
    conditionings: np.ndarray | None = None
    vectors: np.ndarray | None = None  # float32 [N, D], NaN where unknown
    vector_names: tuple[str, ...] = ()
    without_mask: tuple[str, ...] = ()
    without_conditioning: tuple[str, ...] = ()
    empty_masks: tuple[str, ...] = ()  # names of the rows of which the mask marks nothing
    full_masks: tuple[str, ...] = ()  # or everything
    enlarged: int = 0  # how many had fewer pixels than the training size
    near_duplicates: tuple[tuple[int, ...], ...] = ()  # groups of rows

    def __reduce__(self):
        """A worker process opens the store again; the images themselves do not travel."""
        return open_folder, (self.folder, self.label_names)

    def __len__(self) -> int:
        return len(self.images)

    def caption(self, row: int, key: int) -> str:
        """A row's caption; of alternatives one by the key, so that every epoch has another."""
        caption = self.captions[row]
        return caption if isinstance(caption, str) else caption[seeds.key("caption", int(key)) % len(caption)]

    def enlarged_note(self) -> str:
        """A sentence on images with fewer pixels than the training size, or ""."""
        height, width = self.images.shape[-2:]
        verb = "is" if self.enlarged == 1 else "are"
        return f"{self.enlarged} of them {verb} smaller than {width} x {height} px and enlarged." * (self.enlarged > 0)

    def near_duplicates_note(self) -> str:
        """A sentence on near-duplicates, with the names of two, or ""."""
        if not self.near_duplicates:
            return ""
        n = sum(map(len, self.near_duplicates))
        examples = " and ".join(Path(self.names[row]).name for row in self.near_duplicates[0][:2])
        if len(self.near_duplicates[0]) == len(self):
            return f"All images are near-duplicates ({examples}): the validation loss says nothing about new images."
        return f"{n} images are near-duplicates of others ({examples}), which all stay on one side of the split."

    def distinct(self, rows: np.ndarray) -> np.ndarray:
        """The rows in their order, but for those whose image, by its bytes, an earlier one has."""
        _, first = np.unique(self.contents[rows], return_index=True)
        return rows[np.sort(first)]

    def split(self, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """(training, validation) rows by a hash of each image's bytes: order and names do not matter, and
        near-duplicates fall on the same side. Both sides have at least one row."""
        if len(set(self.contents.tolist())) < 2:
            raise UserError("All images are the same one: two different ones are needed, one of them held out.")
        group = self._groups()
        place = np.array([content_hash(int(g).to_bytes(8, "big")) for g in group]) / 2**63
        of_group, counts = np.unique(group, return_counts=True)
        if 2 * counts.max() > len(group):  # more than half of the set is for training
            place[group == of_group[counts.argmax()]] = 1
        validation = place < val_fraction
        if not validation.any():
            validation = group == group[place.argmin()]
        if validation.all():
            validation = group != group[place.argmax()]
        order = np.argsort(place, kind="stable")
        return np.flatnonzero(~validation), order[validation[order]]

    def _groups(self) -> np.ndarray:
        """int64 [N]: the least content hash of a row's near-duplicates; its own if all rows are near-duplicates."""
        group = self.contents.copy()
        for rows in self.near_duplicates:
            group[list(rows)] = self.contents[list(rows)].min()
        return group if len(np.unique(group)) > 1 else self.contents


def open_set(source: Source, size: tuple[int, int], resize: Resize) -> ImageSet:
    """The decoded set, from the cache if it is sound and nothing has changed since, else decoded now."""
    key = content_hash(f"{FORMAT} {source.fingerprint()} {size} {resize}".encode())
    folder = cache_folder() / f"{size[0]}x{size[1]}-{key:016x}"
    if checksums.damaged(folder):
        _decode_once(source, size, resize, folder)
    image_set = open_folder(folder)
    if image_set.rejected:
        some = listed(image_set.rejected, 10)
        warn(f"{len(image_set.rejected)} of {len(source)} images cannot be read and are left out: {some}.")
    if image_set.masks is not None and (image_set.empty_masks or image_set.full_masks):
        warn(_on_masks(image_set))
    return image_set


def _on_masks(image_set: ImageSet) -> str:
    """A sentence on masks that mark nothing or everything."""
    kinds = {"empty": image_set.empty_masks, "full": image_set.full_masks}
    for kind, names in kinds.items():
        if len(names) == len(image_set):
            return (
                f"Every one of the {len(names)} masks is {kind}: masks are white, opaque or a class id above 0 "
                "where they mark the subject."
            )
    counted = "; ".join(
        f"{len(names)} {kind} (of {', '.join(names[:3])}{' ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
        if names
    )
    return f"Of {len(image_set)} masks some mark nothing or everything: {counted}."


def _decode_once(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    """Of several processes that want the same set, one decodes it and the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        for killed in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(killed, ignore_errors=True)
        damage = checksums.damaged(folder)
        if damage and folder.is_dir():
            warn(f"The cached images in {folder} are damaged ({damage}): they are decoded again.")
        if damage:
            decode(source, size, resize, folder)


@uncollected()
def open_folder(folder: Path, label_names: Sequence[str] | None = None) -> ImageSet:
    """The set that lies there. label_names: in the order of their numbers; None for those that the images have."""
    try:
        listing = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks, conditionings, vectors = (
            np.load(file, mmap_mode="r") if (file := folder / f"{name}.npy").is_file() else None
            for name in ("masks", "conditionings", "vectors")
        )
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"The cached images in {folder} are damaged ({error}): remove that folder.") from error
    names, contents, labels, captions = zip(*listing["rows"], strict=True)
    label_names = tuple(
        sorted({label for label in labels if label is not None}) if label_names is None else label_names
    )
    number = {composed(name): i for i, name in enumerate(label_names)} | {n: i for i, n in enumerate(label_names)}
    return ImageSet(
        images,
        masks,
        np.array([number.get(label, -1) for label in labels]) if label_names else None,
        label_names,
        tuple(tuple(c) if isinstance(c, list) else c or "" for c in captions) if any(captions) else None,
        np.array(contents, dtype=np.int64),
        names,
        tuple((name, why) for name, why in listing["rejected"]),
        folder,
        conditionings,
        vectors,
        *(tuple(listing[what]) for what in ("vector_names", "without_mask", "without_conditioning")),
        *(tuple(listing[what]) for what in ("empty_masks", "full_masks")),
        listing["enlarged"],
        tuple(map(tuple, listing["near_duplicates"])),
    )
