"""Pictures decoded once: a fingerprinted, memory-mapped uint8 store under the user's cache folder."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import platformdirs
from PIL import UnidentifiedImageError

from chrysalis.data.sources import Drawn, Picture, Source, content_hash
from chrysalis.data.transforms import Resize
from chrysalis.errors import UserError
from chrysalis.files import write_text, written_folder
from chrysalis.terminal import progress, warn

FORMAT = 1
MAX_UNREADABLE = 0.05


@dataclass(frozen=True)
class PictureSet:
    """images uint8 [N, 3, H, W] and masks uint8 [N, 1, H, W] or None, memory-mapped; the rest in memory."""

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray | None  # int64 [N], -1 where unknown
    label_names: tuple[str, ...]
    captions: tuple[str, ...] | None
    contents: np.ndarray  # int64 [N], a hash of each picture's bytes
    names: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]  # (name, why)
    folder: Path

    def __reduce__(self):
        """A worker process opens the store again; the pictures themselves do not travel."""
        return open_folder, (self.folder,)

    def __len__(self) -> int:
        return len(self.images)

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
        _decode(source, size, resize, folder)
    pictures = open_folder(folder)
    if pictures.rejected:
        listed = _listed(pictures.rejected, 10)
        warn(f"{len(pictures.rejected)} of {len(source)} pictures cannot be read and are left out: {listed}.")
    return pictures


def _listed(rejected: Sequence[tuple[str, str]], most: int) -> str:
    more = f"; and {len(rejected) - most} more" if len(rejected) > most else ""
    return "; ".join(f"{name} ({why})" for name, why in rejected[:most]) + more


def _decode(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    needed = len(source) * 3 * size[0] * size[1]
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder.parent).free) < 3 * needed:
        raise UserError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free, and the decoded pictures need {needed / 2**30:.1f}: "
            "make room there or set CHRYSALIS_CACHE to another folder."
        )
    with written_folder(folder, keep_existing=True) as partial_folder:
        rows, rejected = [], []
        images = np.lib.format.open_memmap(partial_folder / "all.npy", "w+", np.uint8, (len(source), 3, *size))
        masks = None
        for i, result in _read_all(source, size, resize):
            if not isinstance(result, Picture):
                rejected.append((source.row_name(i), result))
                continue
            images[len(rows)] = result.image
            if result.mask is not None:
                if masks is None:
                    masks = np.lib.format.open_memmap(
                        partial_folder / "all_masks.npy", "w+", np.uint8, (len(source), 1, *size)
                    )
                masks[len(rows)] = result.mask
            rows.append((source.row_name(i), result.content, result.label, result.caption, result.mask is not None))
        _refuse_too_many(rejected, len(source))
        _shorten(partial_folder, "all.npy", "images.npy", images, len(rows))
        if masks is not None and all(r[4] for r in rows):
            _shorten(partial_folder, "all_masks.npy", "masks.npy", masks, len(rows))
        else:
            (partial_folder / "all_masks.npy").unlink(missing_ok=True)  # a set has a mask for every picture or none
        write_text(partial_folder / "rows.json", json.dumps({"rows": rows, "rejected": rejected}))


def _shorten(folder: Path, name: str, final: str, values: np.ndarray, n: int) -> None:
    values.flush()
    if n == len(values):
        os.replace(folder / name, folder / final)
        return
    short = np.lib.format.open_memmap(folder / final, "w+", np.uint8, (n, *values.shape[1:]))
    for start in range(0, n, 1024):
        short[start : start + 1024] = values[start : min(start + 1024, n)]
    short.flush()
    (folder / name).unlink()


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
    with _pool(source, n) as pool, progress(f"{verb} {n} pictures", n) as advance:
        for start in range(0, n, 512):
            rows = range(start, min(start + 512, n))
            for i, result in zip(rows, pool.map(partial(_try, source, size, resize), rows, chunksize=8), strict=True):
                advance(1)
                yield i, result


def _pool(source: Source, n: int) -> Executor:
    """Drawing is Python and numpy, so it takes processes; decoding happens outside the GIL, so threads do."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(source, Drawn) and n >= 200 and cores > 1:
        return ProcessPoolExecutor(min(cores, 16), mp_context=get_context("spawn"))
    return ThreadPoolExecutor(min(cores, 16))


def open_folder(folder: Path) -> PictureSet:
    try:
        listing = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks = np.load(folder / "masks.npy", mmap_mode="r") if (folder / "masks.npy").is_file() else None
    except (OSError, ValueError) as error:
        raise UserError(f"The cached pictures in {folder} are damaged ({error}): remove that folder.") from error
    names, contents, labels, captions, _ = zip(*listing["rows"], strict=True)
    label_names = tuple(sorted({label for label in labels if label is not None}))
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
    )
