"""What a folder of pictures holds: its pictures, and what metadata.jsonl and mirrored folders say of each."""

import gc
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from chrysalis.data.formats import suffixes
from chrysalis.data.picture import cleaned, measurement
from chrysalis.errors import UserError, require_path

MIRRORS = {"mask": "data.masks", "conditioning": "data.conditioning_images"}  # the field of a Row, and its key


@dataclass(frozen=True)
class Row:
    """One picture of a folder: its file, its place below that folder, and what is known of it."""

    file: Path
    place: Path
    label: str | None = None
    caption: str | None = None
    mask: Path | None = None
    conditioning: Path | None = None
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Columns:
    """The keys of metadata.jsonl that the user asked for by name."""

    label: str | None = None
    caption: str | None = None
    vector: tuple[str, ...] = ()

    def asked(self) -> list[tuple[str, str]]:
        """(key of the command line, key of metadata.jsonl) of each."""
        pairs = [("data.label_column", self.label), ("data.caption_column", self.caption)]
        return [pair for pair in pairs if pair[1] is not None] + [("data.vector_columns", c) for c in self.vector]


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
def rows_below(path: Path, columns: Columns, mirrors: Mapping[str, str | None]) -> tuple[list[Row], dict[str, int]]:
    """The images that metadata.jsonl lists, else all below `path`; and how many other files there are by suffix.

    mirrors: a folder or None by a Row's field. Of a listing no other files are counted, nor are .txt files, which are
    captions.
    """
    unused: dict[str, int] = {}
    folders = {field: _mirror(field, given, path) for field, given in mirrors.items() if given is not None}
    listing = path / "metadata.jsonl"
    if listing.is_file():
        rows = _listed(listing, columns)
    else:
        for key, column in columns.asked():
            raise UserError(
                f"{key}={column} needs {listing}, which is not there: one object a line, with file_name and {column}."
            )
        rows, unused = _found(path, folders.values())
    for field, folder in folders.items():
        rows = _matched(rows, field, folder) if rows else rows
    return rows, unused


def _mirror(field: str, given: str, path: Path) -> Path:
    folder = require_path(MIRRORS[field], given)
    if not folder.is_dir():
        raise UserError(f"{MIRRORS[field]}={given} is not a folder. {nearest_folder(folder)}")
    if folder.samefile(path):
        raise UserError(f"{MIRRORS[field]}={given} is data.path itself: name the folder that mirrors it.")
    return folder


def _found(path: Path, mirrors: Collection[Path]) -> tuple[list[Row], dict[str, int]]:
    """Every image below `path` outside `mirrors`, labelled by the folder it lies in; and the other files by suffix."""
    by_suffix: dict[str, list[Path]] = {}
    for file in walk(path, mirrors):
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


def _listed(listing: Path, columns: Columns) -> list[Row]:
    rows, keys = [], {}
    for number, line in enumerate(_text_of(listing).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            row = _row(entry, listing.parent, columns)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError):  # loops of links, of brackets
            raise UserError(
                f"{listing} line {number} is not an object with a file_name inside the folder and texts: mend or "
                "remove it."
            ) from None
        rows.append(replace(row, vector=_vector(entry, columns, f"{listing} line {number}")))
        keys |= dict.fromkeys(key for key, value in entry.items() if value is not None)
    for key, column in columns.asked():
        if rows and column not in keys:
            raise UserError(f"{key}={column} has no value in {listing}: its lines have {', '.join(keys)}.")
    return rows


def _text_of(listing: Path) -> str:
    try:
        return listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = listing.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{listing} line {line} is not UTF-8 text: save the file as UTF-8.") from None


def _row(entry: dict, folder: Path, columns: Columns) -> Row:
    root = folder.resolve()

    def below(name: str | None) -> Path | None:
        path = (root / name).resolve() if name else None
        if path is not None and (not path.is_relative_to(root) or path.is_symlink()):  # still a link: a loop
            raise ValueError(name)
        return path

    def text(value: object) -> str | None:
        if isinstance(value, dict | list):
            raise ValueError(value)
        return None if value is None else cleaned(str(value))

    file = below(entry["file_name"])
    caption = entry.get(columns.caption) if columns.caption else entry.get("text", entry.get("caption"))
    mask, conditioning = below(entry.get("mask_file_name")), below(entry.get("conditioning_image_file_name"))
    label = text(entry.get(columns.label or "label"))
    return Row(file, file.relative_to(root), label, text(caption), mask, conditioning)


def _vector(entry: dict, columns: Columns, where: str) -> tuple[float, ...] | None:
    values = []
    for column in columns.vector:
        try:
            values.append(measurement(entry.get(column)))
        except ValueError as error:
            raise UserError(
                f"{where}: {column}, which data.vector_columns names, must be a number, and {error}."
            ) from None
    return tuple(values) or None


def _matched(rows: Sequence[Row], field: str, folder: Path) -> list[Row]:
    """The rows with the files of `folder` that lie below it as a row does below data.path, whatever the suffix.

    They replace what metadata.jsonl names. A set's one folder of pictures may be left out: images/a/1.jpg of
    data.path has its mask at images/a/1.png or at a/1.png.
    """
    by_stem: dict[Path, list[Path]] = {}
    for file in sorted(p for p in walk(folder) if p.suffix.lower() in suffixes()):
        by_stem.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    shorter = _below_their_one_folder([row.place for row in rows])
    matched = []
    for row, short in zip(rows, shorter, strict=True):
        found = by_stem.get(row.place.with_suffix("")) or by_stem.get(short.with_suffix("")) or []
        found = [file for file in found if file.name == row.place.name] or found
        if len(found) > 1:
            names = " and ".join(str(file.relative_to(folder)) for file in found)
            raise UserError(f"{MIRRORS[field]}={folder} has {names} for {row.file}: leave one of them.")
        matched.append(replace(row, **{field: found[0] if found else None}))
    if not any(getattr(row, field) for row in matched):
        raise UserError(
            f"{MIRRORS[field]}={folder} has no picture that corresponds to one of data.path: for {rows[0].file} it "
            f"must hold {shorter[0].with_suffix('.png')}, or that name with another picture suffix."
        )
    return matched


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
