"""The rows of an image folder: found by suffix or listed in metadata, with masks and images from mirror folders."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from chrysalis.data.columns import clean_text, composed
from chrysalis.data.formats import suffixes, unused_note
from chrysalis.data.sources.metadata import NAMES, Row, read_rows, settings
from chrysalis.system.errors import UserError, require_path


def rows_below(
    path: Path, keys: Mapping[str, Sequence[str]], mirrors: Mapping[str, str | None]
) -> tuple[list[Row], str]:
    """Return the images that metadata lists, else all images below `path`, and a note on unused files.

    Args:
        keys: by column, the metadata keys that the configuration names.
        mirrors: by column, the folder that mirrors `path`, or None. Without metadata, .txt files count as used: they
            are captions.
    """
    folders = {column: _mirror(column, given, path) for column, given in mirrors.items() if given is not None}
    files = walk(path, folders.values())
    listings = _listings(path, files)
    if listings:
        rows = [row for listing in listings for row in read_rows(listing, path, keys)]
        note = _unlisted_note(path, files, rows, listings)
    else:
        for setting, key in settings(keys):
            raise UserError(
                f"{setting}={key} needs {path / 'metadata.jsonl'}, which does not exist: write one object per line, "
                f"with file_name and {key}."
            )
        rows, unused = _found(path, files, folders.values())
        note = unused_note(unused)
    for column, folder in folders.items():
        rows = _matched(rows, column, folder) if rows else rows
    return rows, note


def _listings(path: Path, files: Iterable[Path]) -> list[Path]:
    """Return the metadata file of `path` itself, else those of the folders below it."""
    candidates = sorted(file for file in files if file.name in NAMES)
    listings = [file for file in candidates if file.parent == path] or candidates
    for one, other in pairwise(listings):
        if one.parent == other.parent:
            raise UserError(f"{one.parent} has {one.name} and {other.name}: remove one of them.")
    return listings


def _unlisted_note(path: Path, files: Iterable[Path], rows: Iterable[Row], listings: Sequence[Path]) -> str:
    """Return a sentence on images and metadata files below `path` that `listings` leave out, or ""."""
    used = {str(file) for row in rows for file in (row.file, *row.columns.values()) if isinstance(file, Path)}
    images = [file for file in files if file.suffix.lower() in suffixes()]
    root = path.resolve()
    images = [file for file in images if str(root / file.relative_to(path)) not in used]
    images = [file for file in images if os.path.realpath(file) not in used]  # last, because resolving links is slow
    further = [file.relative_to(path) for file in files if file.name in NAMES and file not in listings]
    parts = []
    if images:
        verb = "image is" if len(images) == 1 else "images are"
        parts.append(f"{len(images)} {verb} not listed in {listings[0].name} and not used: {_first_names(images)}")
    if further:
        parts.append(f"Ignored in favor of {listings[0].name}: {', '.join(map(str, sorted(further)[:3]))}")
    return ". ".join(parts) + "." * bool(parts)


def _first_names(files: Sequence[Path]) -> str:
    return ", ".join(sorted(file.name for file in files)[:3]) + ", ..." * (len(files) > 3)


def _mirror(column: str, given: str, path: Path) -> Path:
    folder = require_path(f"data.{column}s", given)
    if not folder.is_dir():
        raise UserError(f"data.{column}s={given} is not a folder: correct the path. {nearest_folder(folder)}")
    if folder.samefile(path):
        raise UserError(f"data.{column}s={given} is data.path itself: give the folder that mirrors it.")
    return folder


def _found(path: Path, walked: Iterable[Path], mirrors: Collection[Path]) -> tuple[list[Row], dict[str, int]]:
    """Return all images among the files below `path`, labeled by folder, and the number of other files by suffix."""
    by_suffix: dict[str, list[Path]] = {}
    for file in walked:
        by_suffix.setdefault(file.suffix.lower(), []).append(file)
    files = sorted((file for s in suffixes() for file in by_suffix.get(s, ())), key=attrgetter("parts"))
    unused = {s: len(others) for s, others in by_suffix.items() if s not in {*suffixes(), ".txt"}}
    places = [file.relative_to(path) for file in files]
    mirrored_inside = any(mirror.resolve().is_relative_to(path.resolve()) for mirror in mirrors)
    parents = [place.parent for place in (_without_common_folder(places) if mirrored_inside else places)]
    labeled = any(parent.parts for parent in parents)
    rows = [
        Row(file, place, {"label": clean_text(parent.as_posix()) if labeled else None})
        for file, place, parent in zip(files, places, parents, strict=True)
    ]
    return rows, unused


def _without_common_folder(places: Sequence[Path]) -> list[Path]:
    """Drop the first folder if it is the same for all: `images` of a set with images/ and masks/."""
    if len({place.parts[0] for place in places}) != 1 or any(len(place.parts) == 1 for place in places):
        return list(places)
    return [Path(*place.parts[1:]) for place in places]


def _matched(rows: Sequence[Row], column: str, folder: Path) -> list[Row]:
    """Set a column of each row to the file of `folder` with the row's place below data.path, whatever the suffix.

    It replaces what the metadata names. A common first folder of all images may be left out: the mask of
    images/a/1.jpg is images/a/1.png or a/1.png.
    """
    by_stem: dict[str, list[Path]] = {}
    for file in sorted(path for path in walk(folder) if path.suffix.lower() in suffixes()):
        by_stem.setdefault(_stem(file.relative_to(folder)), []).append(file)
    shorter = _without_common_folder([row.place for row in rows])
    matched = []
    for row, short in zip(rows, shorter, strict=True):
        found = by_stem.get(_stem(row.place)) or by_stem.get(_stem(short)) or []
        found = [file for file in found if composed(file.name) == composed(row.place.name)] or found
        if len(found) > 1:
            names = " and ".join(str(file.relative_to(folder)) for file in found)
            raise UserError(f"data.{column}s={folder} has {names} for {row.file}: remove one of them.")
        matched.append(replace(row, columns={**row.columns, column: found[0] if found else None}))
    if not any(row.columns[column] for row in matched):
        raise UserError(
            f"data.{column}s={folder} has no image that corresponds to one of data.path: for {rows[0].file} it "
            f"must contain {shorter[0].with_suffix('.png')}, or that name with another image suffix."
        )
    return matched


def _stem(place: Path) -> str:
    return composed(str(place.with_suffix("")))


def walk(root: Path, skipped: Iterable[Path] = ()) -> Sequence[Path]:
    """Return visible files below `root`, following links but visiting each folder once, so that loops of links end."""
    found, seen = [], {(status.st_dev, status.st_ino) for status in map(os.stat, skipped)}
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
    """Return a sentence on the deepest folder of a path that exists, and the folders in it."""
    parent = path.absolute()
    while not parent.is_dir():
        parent = parent.parent
    inside = sorted(child.name for child in parent.iterdir() if child.is_dir() and not child.name.startswith("."))[:8]
    contents = f", which contains {', '.join(inside)}" if inside else ""
    return f"The last part of it that exists is {parent}{contents}."
