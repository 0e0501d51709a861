"""Decoding of all images of a source into the arrays of the store."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from chrysalis.data import checksums, near_duplicates
from chrysalis.data.columns import COLUMNS, Images, Labels
from chrysalis.data.source import Example, Source
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


class _ArrayFile:
    """A .npy file of uint8 images that grows row by row; it is removed at the end unless every row has an image."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.file, self.row = open(path, "wb"), np.empty(shape, np.uint8)  # noqa: SIM115 -- see finish
        self.n, self.without = 0, list[str]()
        self._write_header()

    def append(self, value: np.ndarray | None, row_name: str) -> None:
        if value is None:
            self.without.append(row_name)
        else:
            self.row[...] = value
            self.file.write(self.row)
            self.n += 1

    def finish(self) -> list[str]:
        """Close the file. Return the names of rows without an image, if others have one."""
        self.file.seek(0)
        self._write_header()
        self.file.close()
        if self.without or not self.n:
            os.unlink(self.file.name)
        return self.without if self.n else []

    def _write_header(self) -> None:
        """Write the number of rows, for which NumPy pads the header so that it can be written again."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.n, *self.row.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)


def decode(source: Source, size: tuple[int, int], resize: Resize, folder: Path) -> None:
    """Write all readable rows of a source to `folder`, which appears once it is complete."""
    _require_space(folder.parent, len(source) * 3 * size[0] * size[1])
    with written_folder(folder) as partial_folder:
        # 1. Images into arrays, everything else into lists
        channels = {"image": 3, **{name: c.channels for name, c in COLUMNS.items() if isinstance(c, Images)}}
        arrays = {name: _ArrayFile(partial_folder / f"{name}.npy", (n, *size)) for name, n in channels.items()}
        lists: dict[str, list] = {name: [] for name in COLUMNS if name not in arrays}
        names, contents, rejected, enlarged, flat_masks = [], [], [], 0, []
        for i, result in _read_all(source, size, resize):
            name = source.row_name(i)
            if not isinstance(result, Example):
                rejected.append((name, result))
                continue
            values = {**result.columns, "image": result.image}
            for column, array in arrays.items():
                array.append(values.get(column), name)
            for column, listed in lists.items():
                listed.append(values.get(column))
            if (mask := values.get("mask")) is not None and mask.min() == mask.max():
                flat_masks.append((name, bool(mask.any())))
            names.append(name)
            contents.append(result.content)
            enlarged += result.enlarged
        _refuse_too_many(rejected, len(source))
        # 2. The listing: all but `lists` are fields of ImageSet
        without = {column: missing for column, array in arrays.items() if (missing := array.finish())}
        lists = {column: values for column, values in lists.items() if any(values)}
        near = [] if source.synthetic else near_duplicates.groups(np.load(partial_folder / "image.npy", mmap_mode="r"))
        listing = {
            "lists": lists,
            "names": names,
            "contents": contents,
            "rejected": rejected,
            "value_names": {**source.value_names, **_label_names(lists)},
            "without": without,
            "mask_note": "" if "mask" in without else _mask_note(flat_masks, len(names)),
            "enlarged": enlarged,
            "near_duplicates": near,
        }
        write_text(partial_folder / "rows.json", json.dumps(listing))
        checksums.write(partial_folder)


def _label_names(lists: Mapping[str, list]) -> dict[str, list[str]]:
    return {name: sorted({*values} - {None}) for name, values in lists.items() if isinstance(COLUMNS[name], Labels)}


def _mask_note(flat: Sequence[tuple[str, bool]], n: int) -> str:
    """Return a sentence on masks that mark nothing or everything, or "". flat: of n, their names and which."""
    kinds = {kind: [name for name, full in flat if full == is_full] for kind, is_full in (("empty", 0), ("full", 1))}
    for kind, names in kinds.items():
        if len(names) == n:
            return (
                f"All {n} masks are {kind}: a mask must be white, opaque or a class id above 0 where it marks the "
                "subject."
            )
    counted = "; ".join(
        f"{len(names)} {kind} (of {', '.join(names[:3])}{' ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
        if names
    )
    return f"Some of {n} masks mark nothing or everything: {counted}." if counted else ""


def _require_space(folder: Path, needed: int) -> None:
    """Require four times the images' bytes: for masks and conditioning images too."""
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
