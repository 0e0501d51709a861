"""Decoding of all images of a source into the arrays of the store."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
from PIL import UnidentifiedImageError

from chrysalis.data import near_duplicates
from chrysalis.data.columns import COLUMNS, Images, Labels
from chrysalis.data.source import LOW, Example, Source
from chrysalis.data.transforms import Resize, Shape
from chrysalis.system.errors import UserError
from chrysalis.system.files import write_text
from chrysalis.system.terminal import stage

MAX_UNREADABLE = 0.05  # fraction of the images
THREADS = "OMP_NUM_THREADS"  # which BLAS reads when NumPy is imported


def describe_rejected(rejected: Sequence[tuple[str, str]], limit: int) -> str:
    """Return up to `limit` names of unreadable images, each with the reason."""
    more = f"; and {len(rejected) - limit} more" if len(rejected) > limit else ""
    return "; ".join(f"{name} ({why})" for name, why in rejected[:limit]) + more


def decode(source: Source, shape: Shape, resize: Resize, folder: Path) -> None:
    """Write all readable rows of a source to `folder`: images as plain bytes, everything else in rows.json."""
    # 1. one file per column of images, one list per other column
    shapes = _image_shapes(shape)
    lists: dict[str, list] = {name: [] for name in COLUMNS if name not in shapes}
    without: dict[str, list[str]] = {name: [] for name in shapes}
    names, contents, rejected, enlarged, uniform_masks = [], [], [], 0, {"empty": [], "full": []}
    # 2. rows that can be read
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.bin", "wb")) for name in shapes}
        for name, result in _read_all(source, shape, resize):
            if not isinstance(result, Example):
                rejected.append((name, result))
                continue
            # 8 bits as 16: 255 is 65535, so both bytes are the same
            values = {**result.columns, "image": result.image, LOW: result.image if result.low is None else result.low}
            for column in _write_images(values, files, shapes):
                without[column].append(name)
            for column, listed in lists.items():
                listed.append(values.get(column))
            if (mask := values.get("mask")) is not None and mask.min() == mask.max():
                uniform_masks["full" if mask.any() else "empty"].append(name)
            names.append(name)
            contents.append(result.content)
            enlarged += result.enlarged
    _refuse_too_many(rejected, len(source))
    # 3. rows.json; columns of images that some rows lack are left out
    for column in (column for column, missing in without.items() if missing):
        (folder / f"{column}.bin").unlink()
    lists = {column: values for column, values in lists.items() if any(values)}
    labels = {name: sorted({*values} - {None}) for name, values in lists.items() if isinstance(COLUMNS[name], Labels)}
    images = np.memmap(folder / "image.bin", np.uint8, "r", shape=(len(names), *shape))
    listing = {  # all but `shapes` and `lists` are fields of ImageSet
        "shapes": {column: (len(names), *size) for column, size in shapes.items() if not without[column]},
        "lists": lists,
        "names": names,
        "contents": contents,
        "rejected": rejected,
        "value_names": {**source.value_names, **labels},
        "without": {column: missing for column, missing in without.items() if 0 < len(missing) < len(names)},
        "mask_note": "" if without["mask"] else _mask_note(uniform_masks, len(names)),
        "enlarged": enlarged,
        "near_duplicates": [] if source.synthetic else near_duplicates.groups(images),
    }
    write_text(folder / "rows.json", json.dumps(listing))


def _image_shapes(shape: Shape) -> dict[str, Shape]:
    """Shapes [C, H, W] of the columns of images, for images of `shape`."""
    sizes = {name: (column.channels, *shape[1:]) for name, column in COLUMNS.items() if isinstance(column, Images)}
    return {"image": shape} | ({LOW: shape} if shape[0] == 1 else {}) | sizes


def _write_images(values: Mapping, files: Mapping[str, IO[bytes]], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Append the images of a row to the files of their columns; return the columns that the row lacks."""
    for column, file in files.items():
        if (value := values.get(column)) is not None:
            file.write(np.broadcast_to(value, shapes[column]).astype(np.uint8).tobytes())
    return [column for column in files if values.get(column) is None]


def _mask_note(uniform: Mapping[str, Sequence[str]], n: int) -> str:
    """Return a sentence on the masks, out of n, that mark nothing or everything, or ""."""
    for kind, names in uniform.items():
        if len(names) == n:
            return (
                f"All {n} masks are {kind}: a mask must be white, opaque or a class id above 0 where it marks the "
                "subject."
            )
    counted = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for kind, names in uniform.items()
        if names
    )
    return f"Some of {n} masks mark nothing or everything: {counted}. Correct or remove them." if counted else ""


def _refuse_too_many(rejected: list[tuple[str, str]], n: int) -> None:
    if len(rejected) <= MAX_UNREADABLE * n and len(rejected) < n:
        return
    raise UserError(
        f"{len(rejected)} of {n} images cannot be read, more than {MAX_UNREADABLE:.0%}: "
        f"{describe_rejected(rejected, 5)}. Fix or remove them, or set data.path to another folder."
    )


def _try(source: Source, shape: Shape, resize: Resize, i: int) -> Example | str:
    try:
        return source.read(i, shape, resize)
    except UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # arbitrary files raise arbitrary errors, which are reported together
        return (str(error).strip() or type(error).__name__).split("\n")[0][:160]


def _read_all(source: Source, shape: Shape, resize: Resize) -> Iterator[tuple[str, Example | str]]:
    """Yield (name, the decoded row or the reason why it cannot be used) in order."""
    n, verb = len(source), "drawing" if source.synthetic else "decoding"
    with (
        warnings.catch_warnings(action="ignore"),  # Pillow warns about images that it can still read
        _pool(source, n) as pool,
        stage(f"{verb} {n} images", n) as progress,
    ):
        for start in range(0, n, 512):
            rows = range(start, min(start + 512, n))
            for i, result in zip(rows, pool.map(partial(_try, source, shape, resize), rows, chunksize=8), strict=True):
                progress.advance(1)
                yield source.row_name(i), result


def _pool(source: Source, n: int) -> Executor:
    """Return a process pool to compute images, which holds the GIL, or threads to decode them, which does not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    importable = type(source).__module__ != "__main__" and "<locals>" not in type(source).__qualname__
    if source.synthetic and importable and n >= 200 and cores > 1:
        return ProcessPoolExecutor(min(cores, 16), mp_context=FreshContext())
    return ThreadPoolExecutor(min(cores, 16))


class FreshProcess(SpawnProcess):
    """A spawned process that imports the modules of the objects it unpickles, but not the parent's main script.

    A standard one first imports that script; if it opens a dataset outside `if __name__ == "__main__"`, each child
    would start children of its own. NumPy has one thread in it: as many as cores in each of as many processes spend
    most of their time waiting for each other (images were drawn four times as slowly on two cores).
    """

    @staticmethod
    def _Popen(process_obj):
        script, threads = sys.modules["__main__"], os.environ.get(THREADS)
        sys.modules["__main__"] = ModuleType("__main__")  # without the file and spec that multiprocessing would send
        os.environ[THREADS] = "1"
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = script
            os.environ.pop(THREADS)
            if threads is not None:
                os.environ[THREADS] = threads


class FreshContext(SpawnContext):
    """Multiprocessing context of FreshProcess for ProcessPoolExecutor and DataLoader."""

    Process = FreshProcess
