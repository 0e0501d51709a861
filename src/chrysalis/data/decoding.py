"""Decoding of all images of a source into the arrays of the store."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from chrysalis.data import checksums, near_duplicates
from chrysalis.data.example import Example
from chrysalis.data.source import Source
from chrysalis.data.transforms import Resize
from chrysalis.data.worker_processes import FreshContext
from chrysalis.system.errors import UserError
from chrysalis.system.files import write_text, written_folder
from chrysalis.system.terminal import stage

MAX_UNREADABLE = 0.05  # fraction of the images


def describe_rejected(rejected: Sequence[tuple[str, str]], limit: int) -> str:
    """Return up to `limit` names of unreadable images, each with the reason."""
    more = f"; and {len(rejected) - limit} more" if len(rejected) > limit else ""
    return "; ".join(f"{name} ({why})" for name, why in rejected[:limit]) + more


class _Column:
    """One uint8 array of the store that grows row by row; created when the first row has a value for it."""

    def __init__(self, folder: Path, name: str, channels: int, rows: int, size: tuple[int, int]):
        self.partial, self.final = folder / f"all_{name}.npy", folder / f"{name}.npy"
        self.shape = (rows, channels, *size)
        self.values: np.memmap | None = None
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
        """Keep the array if all rows have a value. Return the names of rows without one, if others have one."""
        if self.values is None:
            return []
        if self.without:
            self.partial.unlink()
        else:
            self.values.flush()
            self._shorten(self.values)
        return self.without

    def _shorten(self, values: np.ndarray) -> None:
        """Write the final file: only the first `n` rows, as some images could not be read."""
        if self.n == len(values):
            os.replace(self.partial, self.final)
            return
        short = np.lib.format.open_memmap(self.final, "w+", np.uint8, (self.n, *self.shape[1:]))
        for start in range(0, self.n, 1024):
            short[start : start + 1024] = values[start : min(start + 1024, self.n)]
        short.flush()
        self.partial.unlink()


def decode(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    """Write all readable rows of a source to `folder`, which appears once it is complete."""
    _require_space(folder.parent, len(source) * 3 * size[0] * size[1])
    with written_folder(folder) as partial_folder:
        rows, vectors, rejected, enlarged = [], [], [], 0
        empty_masks, full_masks = [], []
        images, masks, conditionings = (
            _Column(partial_folder, name, channels, len(source), size)
            for name, channels in (("images", 3), ("masks", 1), ("conditionings", 3))
        )
        unknown = (np.nan,) * len(source.vector_names)
        for i, result in _read_all(source, size, resize):
            name = source.row_name(i)
            if not isinstance(result, Example):
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
        listing = {  # all but the rows are fields of ImageSet
            "rows": rows,
            "rejected": rejected,
            "vector_names": source.vector_names,
            "without_mask": masks.finish(),
            "without_conditioning": conditionings.finish(),
            "empty_masks": empty_masks,
            "full_masks": full_masks,
            "enlarged": enlarged,
            "near_duplicates": []
            if source.synthetic
            else near_duplicates.groups(np.load(partial_folder / "images.npy", mmap_mode="r")),
        }
        write_text(partial_folder / "rows.json", json.dumps(listing))
        checksums.write(partial_folder)


def _require_space(folder: Path, needed: int) -> None:
    """Require four times the images' bytes: for masks, conditioning images and shortened arrays too."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < 4 * needed:
        raise UserError(
            f"{folder} has {free / 2**30:.1f} GiB free, and the decoded images need {needed / 2**30:.1f} GiB: "
            "free space there or set CHRYSALIS_CACHE to another folder."
        )


def _refuse_too_many(rejected: list[tuple[str, str]], n: int) -> None:
    if len(rejected) <= MAX_UNREADABLE * n and len(rejected) < n:
        return
    raise UserError(
        f"{len(rejected)} of {n} images cannot be read, more than {MAX_UNREADABLE:.0%}: "
        f"{describe_rejected(rejected, 5)}. Fix or remove them, or set data.path to another folder."
    )


def _try(source: Source, size: tuple[int, int], resize: Resize, i: int) -> Example | str:
    try:
        return source.read(i, size, resize)
    except UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # arbitrary files raise arbitrary errors: listed, never fatal alone
        return (str(error).strip() or type(error).__name__).split("\n")[0][:160]


def _read_all(source: Source, size: tuple[int, int], resize: Resize) -> Iterator[tuple[int, Example | str]]:
    """Yield (row number, the row or why it cannot be used) in order."""
    n, verb = len(source), "drawing" if source.synthetic else "decoding"
    with (
        warnings.catch_warnings(action="ignore"),  # Pillow's, about images that it can read nevertheless
        _pool(source, n) as pool,
        stage(f"{verb} {n} images", n) as progress,
    ):
        for start in range(0, n, 512):
            rows = range(start, min(start + 512, n))
            for i, result in zip(rows, pool.map(partial(_try, source, size, resize), rows, chunksize=8), strict=True):
                progress.advance(1)
                yield i, result


def _pool(source: Source, n: int) -> Executor:
    """Return processes to compute images, which holds the GIL, and threads to decode them, which does not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    importable = type(source).__module__ != "__main__" and "<locals>" not in type(source).__qualname__
    if source.synthetic and importable and n >= 200 and cores > 1:
        return ProcessPoolExecutor(min(cores, 16), mp_context=FreshContext())
    return ThreadPoolExecutor(min(cores, 16))
