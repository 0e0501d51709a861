"""Pictures decoded once: a fingerprinted, memory-mapped uint8 store under the user's cache folder."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock
from PIL import UnidentifiedImageError

from chrysalis.data.listing import uncollected
from chrysalis.data.picture import Picture, content_hash
from chrysalis.data.sources import Drawn, Source
from chrysalis.data.transforms import Resize
from chrysalis.errors import UserError
from chrysalis.files import write_text, written_folder
from chrysalis.terminal import stage, warn

FORMAT = 3
MAX_UNREADABLE = 0.05


@dataclass(frozen=True)
class PictureSet:
    """images uint8 [N, 3, H, W], and masks uint8 [N, 1, H, W] and conditionings uint8 [N, 3, H, W] or None.

    These and vectors are memory-mapped and cannot be written to; the rest is in memory. There are
    masks (conditionings) for every row or there are None; without_mask (without_conditioning) names the rows that
    lack one although others have it.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray | None  # int64 [N], -1 where unknown
    label_names: tuple[str, ...]
    captions: tuple[str, ...] | None
    contents: np.ndarray  # int64 [N], a hash of each picture's bytes
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

    def __reduce__(self):
        """A worker process opens the store again; the pictures themselves do not travel."""
        return open_folder, (self.folder, self.label_names)

    def __len__(self) -> int:
        return len(self.images)

    def enlarged_note(self) -> str:
        """A sentence on images with fewer pixels than the training size, or ""."""
        height, width = self.images.shape[-2:]
        verb = "is" if self.enlarged == 1 else "are"
        return f"{self.enlarged} of them {verb} smaller than {width} x {height} px and enlarged." * (self.enlarged > 0)

    def split(self, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """(train, held-out) rows by a hash of each picture's bytes: order and names do not matter, and equal
        pictures fall on the same side. Both sides have at least one row."""
        if len(set(self.contents.tolist())) < 2:
            raise UserError("All pictures are the same one: two different ones are needed, one of them held out.")
        place = np.array([content_hash(int(c).to_bytes(8, "big")) for c in self.contents]) / 2**63
        held_out = place < val_fraction
        if not held_out.any():
            held_out = self.contents == self.contents[place.argmin()]
        if held_out.all():
            held_out = self.contents != self.contents[place.argmax()]
        order = np.argsort(place, kind="stable")
        return np.flatnonzero(~held_out), order[held_out[order]]


def cache_folder() -> Path:
    """$CHRYSALIS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("CHRYSALIS_CACHE") or platformdirs.user_cache_dir("chrysalis"))


def open_set(source: Source, size: tuple[int, int], resize: Resize) -> PictureSet:
    """The decoded set, from the cache when nothing changed since, else decoded now."""
    key = content_hash(f"{FORMAT} {source.fingerprint()} {size} {resize}".encode())
    folder = cache_folder() / f"{size[0]}x{size[1]}-{key:016x}"
    if not folder.is_dir():
        _decode_once(source, size, resize, folder)
    pictures = open_folder(folder)
    if pictures.rejected:
        listed = _listed(pictures.rejected, 10)
        warn(f"{len(pictures.rejected)} of {len(source)} pictures cannot be read and are left out: {listed}.")
    if pictures.masks is not None and (pictures.empty_masks or pictures.full_masks):
        warn(_on_masks(pictures))
    return pictures


def _on_masks(pictures: PictureSet) -> str:
    """A sentence on masks that mark nothing or everything."""
    kinds = {"empty": pictures.empty_masks, "full": pictures.full_masks}
    for kind, names in kinds.items():
        if len(names) == len(pictures):
            return (
                f"Every one of the {len(names)} masks is {kind}: masks are white, opaque or a class id above 0 "
                "where they mark the subject."
            )
    counted = "; ".join(
        f"{len(names)} {kind} (of {', '.join(names[:3])}{' ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
        if names
    )
    return f"Of {len(pictures)} masks some mark nothing or everything: {counted}."


def _listed(rejected: Sequence[tuple[str, str]], most: int) -> str:
    more = f"; and {len(rejected) - most} more" if len(rejected) > most else ""
    return "; ".join(f"{name} ({why})" for name, why in rejected[:most]) + more


class _Column:
    """One uint8 array of the store while it grows row by row; made when the first row has a value for it."""

    def __init__(self, folder: Path, name: str, channels: int, rows: int, size: tuple[int, int]):
        self.partial, self.final = folder / f"all_{name}.npy", folder / f"{name}.npy"
        self.shape = (rows, channels, *size)
        self.values: np.ndarray | None = None
        self.without: list[str] = []
        self.n = 0

    def append(self, value: np.ndarray | None, row_name: str) -> None:
        if value is None:
            self.without.append(row_name)
        else:
            if self.values is None:
                self.values = np.lib.format.open_memmap(self.partial, "w+", np.uint8, self.shape)
            self.values[self.n] = value
        self.n += 1

    def finish(self) -> list[str]:
        """Keep the array if every row has a value. Returns the names of those without, if others have one."""
        if self.values is None:
            return []
        if self.without:
            self.partial.unlink()
        else:
            self._shorten()
        return self.without

    def _shorten(self) -> None:
        self.values.flush()
        if self.n == len(self.values):
            os.replace(self.partial, self.final)
            return
        short = np.lib.format.open_memmap(self.final, "w+", np.uint8, (self.n, *self.shape[1:]))
        for start in range(0, self.n, 1024):
            short[start : start + 1024] = self.values[start : min(start + 1024, self.n)]
        short.flush()
        self.partial.unlink()


def _decode_once(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    """Of several processes that want the same set, one decodes it and the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        for killed in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(killed, ignore_errors=True)
        if not folder.is_dir():
            _decode(source, size, resize, folder)


def _decode(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    _require_room(folder.parent, len(source) * 3 * size[0] * size[1])
    with written_folder(folder, keep_existing=True) as partial_folder:
        rows, vectors, rejected, enlarged = [], [], [], 0
        empty_masks, full_masks = [], []
        images, masks, conditionings = (
            _Column(partial_folder, name, channels, len(source), size)
            for name, channels in (("images", 3), ("masks", 1), ("conditionings", 3))
        )
        unknown = (np.nan,) * len(source.vector_names)
        for i, result in _read_all(source, size, resize):
            name = source.row_name(i)
            if not isinstance(result, Picture):
                rejected.append((name, result))
                continue
            images.append(result.image, name)
            masks.append(result.mask, name)
            conditionings.append(result.conditioning, name)
            vectors.append(result.vector or unknown)
            enlarged += result.enlarged
            if result.mask is not None and result.mask.min() == result.mask.max():
                (full_masks if result.mask.any() else empty_masks).append(name)
            rows.append((name, result.content, result.label, result.caption))
        _refuse_too_many(rejected, len(source))
        images.finish()
        if source.vector_names:
            np.save(partial_folder / "vectors.npy", np.array(vectors, dtype=np.float32))
        listing = {
            "rows": rows,
            "rejected": rejected,
            "vector_names": source.vector_names,
            "without_mask": masks.finish(),
            "without_conditioning": conditionings.finish(),
            "empty_masks": empty_masks,
            "full_masks": full_masks,
            "enlarged": enlarged,
        }
        write_text(partial_folder / "rows.json", json.dumps(listing))


def _require_room(folder: Path, needed: int) -> None:
    """Four times the images, as masks, conditioning images and a shortened copy may come to them."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < 4 * needed:
        raise UserError(
            f"{folder} has {free / 2**30:.1f} GiB free, and the decoded pictures need {needed / 2**30:.1f}: "
            "make room there or set CHRYSALIS_CACHE to another folder."
        )


def _refuse_too_many(rejected: list[tuple[str, str]], n: int) -> None:
    if len(rejected) <= MAX_UNREADABLE * n and len(rejected) < n:
        return
    raise UserError(
        f"{len(rejected)} of {n} pictures cannot be read, more than {MAX_UNREADABLE:.0%}: {_listed(rejected, 5)}. "
        "Mend or remove them, or point data.path at another folder."
    )


def _try(source: Source, size: tuple[int, int], resize: Resize, i: int) -> Picture | str:
    try:
        return source.read(i, size, resize)
    except UnidentifiedImageError:
        return "not a picture"
    except Exception as error:  # a picture from anywhere can fail in any way; it is listed, never fatal alone
        return f"{type(error).__name__}: {error}".split("\n")[0][:160]


def _read_all(source: Source, size: tuple[int, int], resize: Resize) -> Iterator[tuple[int, Picture | str]]:
    n, verb = len(source), "drawing" if isinstance(source, Drawn) else "decoding"
    with (
        warnings.catch_warnings(action="ignore"),  # Pillow's, of what it can read nevertheless
        _pool(source, n) as pool,
        stage(f"{verb} {n} images", n) as at,
    ):
        for start in range(0, n, 512):
            rows = range(start, min(start + 512, n))
            for i, result in zip(rows, pool.map(partial(_try, source, size, resize), rows, chunksize=8), strict=True):
                at.advance(1)
                yield i, result


def _pool(source: Source, n: int) -> Executor:
    """Drawing is Python and numpy, so it takes processes; decoding happens outside the GIL, so threads do."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(source, Drawn) and n >= 200 and cores > 1:
        return ProcessPoolExecutor(min(cores, 16), mp_context=get_context("spawn"))
    return ThreadPoolExecutor(min(cores, 16))


@uncollected()
def open_folder(folder: Path, label_names: Sequence[str] | None = None) -> PictureSet:
    """The set that lies there. label_names: in the order of their numbers; None for those that the pictures have."""
    try:
        listing = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks, conditionings, vectors = (
            np.load(file, mmap_mode="r") if (file := folder / f"{name}.npy").is_file() else None
            for name in ("masks", "conditionings", "vectors")
        )
    except (OSError, ValueError) as error:
        raise UserError(f"The cached pictures in {folder} are damaged ({error}): remove that folder.") from error
    names, contents, labels, captions = zip(*listing["rows"], strict=True)
    label_names = tuple(
        sorted({label for label in labels if label is not None}) if label_names is None else label_names
    )
    number = {label: i for i, label in enumerate(label_names)}
    return PictureSet(
        images,
        masks,
        np.array([number.get(label, -1) for label in labels]) if label_names else None,
        label_names,
        tuple(c or "" for c in captions) if any(captions) else None,
        np.array(contents, dtype=np.int64),
        names,
        tuple((name, why) for name, why in listing["rejected"]),
        folder,
        conditionings,
        vectors,
        *(tuple(listing[what]) for what in ("vector_names", "without_mask", "without_conditioning")),
        *(tuple(listing[what]) for what in ("empty_masks", "full_masks")),
        listing["enlarged"],
    )
