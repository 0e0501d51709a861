"""What a folder of images holds: its images, and what metadata and mirrored folders say of each."""

import gc
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from chrysalis.data.example import cleaned, composed
from chrysalis.data.formats import suffixes, unused_note
from chrysalis.data.metadata import NAMES, Columns, Row, listed
from chrysalis.system.errors import UserError, require_path

MIRRORS = {"mask": "data.masks", "conditioning": "data.conditioning_images"}  # the field of a Row, and its key


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, Python does not look for cycles: among hundreds of thousands of new rows that takes longer than they."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def rows_below(path: Path, columns: Columns, mirrors: Mapping[str, str | None]) -> tuple[list[Row], str]:
    """The images that metadata lists, else all below `path`; and a sentence on what else lies there and is not used.

    mirrors: a folder or None by a Row's field. Without metadata .txt files are captions, and no part of what is unused.
    """
    folders = {field: _mirror(field, given, path) for field, given in mirrors.items() if given is not None}
    files = walk(path, folders.values())
    listings = _listings(path, files)
    if listings:
        rows = [row for listing in listings for row in listed(listing, path, columns)]
        note = _unlisted_note(path, files, rows, listings)
    else:
        for key, column in columns.asked():
            raise UserError(
                f"{key}={column} needs {path / 'metadata.jsonl'}, which is not there: one object a line, with "
                f"file_name and {column}."
            )
        rows, unused = _found(path, files, folders.values())
        note = unused_note(unused)
    for field, folder in folders.items():
        rows = _matched(rows, field, folder) if rows else rows
    return rows, note


def _listings(path: Path, files: Iterable[Path]) -> list[Path]:
    """The metadata of `path` itself, else those of the folders below it."""
    there = sorted(file for file in files if file.name in NAMES)
    listings = [file for file in there if file.parent == path] or there
    for one, other in pairwise(listings):
        if one.parent == other.parent:
            raise UserError(f"{one.parent} has {one.name} and {other.name}: leave one of them.")
    return listings


def _unlisted_note(path: Path, files: Iterable[Path], rows: Iterable[Row], listings: Sequence[Path]) -> str:
    """A sentence on images and further metadata below `path` that `listings` leave out, or ""."""
    used = {str(file) for row in rows for file in (row.file, row.mask, row.conditioning) if file is not None}
    images = [file for file in files if file.suffix.lower() in suffixes()]
    root = path.resolve()
    images = [file for file in images if str(root / file.relative_to(path)) not in used]
    images = [file for file in images if os.path.realpath(file) not in used]  # slower: for what is linked
    further = [file.relative_to(path) for file in files if file.name in NAMES and file not in listings]
    parts = []
    if images:
        verb = "image is" if len(images) == 1 else "images are"
        parts.append(f"{len(images)} {verb} not listed in {listings[0].name} and not used: {_some(images)}")
    if further:
        parts.append(f"Not read beside {listings[0].name}: {', '.join(map(str, sorted(further)[:3]))}")
    return ". ".join(parts) + "." * bool(parts)


def _some(files: Sequence[Path]) -> str:
    return ", ".join(sorted(file.name for file in files)[:3]) + ", ..." * (len(files) > 3)


def _mirror(field: str, given: str, path: Path) -> Path:
    folder = require_path(MIRRORS[field], given)
    if not folder.is_dir():
        raise UserError(f"{MIRRORS[field]}={given} is not a folder. {nearest_folder(folder)}")
    if folder.samefile(path):
        raise UserError(f"{MIRRORS[field]}={given} is data.path itself: name the folder that mirrors it.")
    return folder


def _found(path: Path, walked: Iterable[Path], mirrors: Collection[Path]) -> tuple[list[Row], dict[str, int]]:
    """Every image among the files below `path`, labelled by the folder it lies in; and the other files by suffix."""
    by_suffix: dict[str, list[Path]] = {}
    for file in walked:
        by_suffix.setdefault(file.suffix.lower(), []).append(file)
    files = sorted((file for s in suffixes() for file in by_suffix.get(s, ())), key=attrgetter("parts"))
    unused = {s: len(others) for s, others in by_suffix.items() if s not in {*suffixes(), ".txt"}}
    places = [p.relative_to(path) for p in files]
    mirrored_inside = any(m.resolve().is_relative_to(path.resolve()) for m in mirrors)
    parents = [place.parent for place in (_below_their_one_folder(places) if mirrored_inside else places)]
    labelled = any(parent.parts for parent in parents)
    rows = [
        Row(file, place, cleaned(parent.as_posix()) if labelled else None)
        for file, place, parent in zip(files, places, parents, strict=True)
    ]
    return rows, unused


def _below_their_one_folder(places: Sequence[Path]) -> list[Path]:
    """Without the first folder, if it is the same for all: `images` of a set with images/ and masks/."""
    if len({place.parts[0] for place in places}) != 1 or any(len(place.parts) == 1 for place in places):
        return list(places)
    return [Path(*place.parts[1:]) for place in places]


def _matched(rows: Sequence[Row], field: str, folder: Path) -> list[Row]:
    """The rows with the files of `folder` that lie below it as a row does below data.path, whatever the suffix.

    They replace what metadata.jsonl names. A set's one folder of images may be left out: images/a/1.jpg of
    data.path has its mask at images/a/1.png or at a/1.png.
    """
    by_stem: dict[str, list[Path]] = {}
    for file in sorted(p for p in walk(folder) if p.suffix.lower() in suffixes()):
        by_stem.setdefault(_stem(file.relative_to(folder)), []).append(file)
    shorter = _below_their_one_folder([row.place for row in rows])
    matched = []
    for row, short in zip(rows, shorter, strict=True):
        found = by_stem.get(_stem(row.place)) or by_stem.get(_stem(short)) or []
        found = [file for file in found if composed(file.name) == composed(row.place.name)] or found
        if len(found) > 1:
            names = " and ".join(str(file.relative_to(folder)) for file in found)
            raise UserError(f"{MIRRORS[field]}={folder} has {names} for {row.file}: leave one of them.")
        matched.append(replace(row, **{field: found[0] if found else None}))
    if not any(getattr(row, field) for row in matched):
        raise UserError(
            f"{MIRRORS[field]}={folder} has no image that corresponds to one of data.path: for {rows[0].file} it "
            f"must hold {shorter[0].with_suffix('.png')}, or that name with another image suffix."
        )
    return matched


def _stem(place: Path) -> str:
    return composed(str(place.with_suffix("")))


def walk(root: Path, without: Iterable[Path] = ()) -> Sequence[Path]:
    """Visible files below `root` through linked folders too, each folder once, so that a loop of links ends."""
    found, seen = [], {(s.st_dev, s.st_ino) for s in map(os.stat, without)}
    for here, folders, names in os.walk(root, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here) / name for name in names if not name.startswith(".")]
    return found


def nearest_folder(path: Path) -> str:
    parent = path.absolute()
    while not parent.is_dir():
        parent = parent.parent
    inside = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))[:8]
    return f"The last part of it that exists is {parent}" + (f", which holds {', '.join(inside)}." if inside else ".")
