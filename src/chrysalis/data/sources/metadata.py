"""Reader of metadata.jsonl and metadata.csv, by the rules of the imagefolder builder of `datasets`."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from chrysalis.data.example import as_measurement, clean_text, composed, parse_caption
from chrysalis.system.errors import UserError

NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Row:
    """One image of a folder: its file, its place relative to that folder, and what the metadata says about it."""

    file: Path
    place: Path
    label: str | None = None
    caption: str | tuple[str, ...] | None = None  # a tuple: alternatives
    mask: Path | None = None
    conditioning: Path | None = None
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Columns:
    """The metadata keys that the configuration names."""

    label: str | None = None
    caption: str | None = None
    vector: tuple[str, ...] = ()

    def by_key(self) -> list[tuple[str, str]]:
        """Return (configuration key, metadata key) of each."""
        texts = [("data.label_column", self.label), ("data.caption_column", self.caption)]
        named = [(key, column) for key, column in texts if column is not None]
        return named + [("data.vector_columns", column) for column in self.vector]


def read_rows(listing: Path, root: Path, columns: Columns) -> list[Row]:
    """Return the images that the file `listing` names, which lies in `root` or below it."""
    rows, keys = [], {}
    is_csv = listing.suffix == ".csv"
    place = listing.parent.relative_to(root)
    for number, line in (_records if is_csv else _objects)(listing):
        try:
            entry = {composed(key): value for key, value in line.items()}
            row = _row(entry, listing.parent, columns)
        except _SeveralLabels as error:
            raise UserError(f"{listing} line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError):  # the last two: link loops
            raise _bad(listing, number) from None
        if is_csv:
            entry |= {column: _number(entry.get(column)) for column in columns.vector}
        vector = _vector(entry, columns, f"{listing} line {number}")
        rows.append(replace(row, place=place / row.place, vector=vector))
        keys |= dict.fromkeys(key for key, value in entry.items() if value is not None)
    if not rows:
        raise UserError(
            f"{listing} lists no images: write one line per image, or remove the file to use all images in its folder."
        )
    for key, column in columns.by_key():
        if column not in keys:
            raise UserError(f"{key}={column} has no value in {listing}: its lines have {', '.join(keys)}.")
    return rows


def _bad(listing: Path, number: int) -> UserError:
    return UserError(
        f"{listing} line {number} is not an object with texts and a file_name inside the folder: fix or remove it."
    )


def _objects(listing: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) of a JSONL file."""
    for number, line in enumerate(_text_of(listing).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                raise _bad(listing, number) from None


def _records(listing: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield (line number, values by column) of a CSV file; an empty cell is an unknown value."""
    reader = csv.reader(io.StringIO(_text_of(listing), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if header and "file_name" not in header:
            raise UserError(
                f"{listing} has no column file_name: its first line is {', '.join(header)[:200]}. Name the column of "
                "files file_name and separate columns by commas, or rename the file if it is about something else."
            )
        for cells in reader:
            if len(cells) > len(header) or 0 < len(cells) < len(header):
                raise UserError(
                    f"{listing} line {reader.line_num} has {len(cells)} values for {len(header)} columns: put values "
                    "that hold commas in quotation marks."
                )
            if cells:
                yield reader.line_num, {key: cell or None for key, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{listing} line {reader.line_num} is not CSV: {error}. Fix or remove that line.") from None


def _text_of(listing: Path) -> str:
    try:
        return listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = listing.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{listing} line {line} is not UTF-8 text: save the file as UTF-8.") from None


class _SeveralLabels(Exception):
    """The label of an image is a list."""


def _row(entry: dict, folder: Path, columns: Columns) -> Row:
    root = folder.resolve()

    def below(name: str) -> Path:
        path = spelled(root, name).resolve()
        if not path.is_relative_to(root) or path.is_symlink():  # still a link: a loop
            raise ValueError(name)
        return path

    def companion(key: str) -> Path | None:
        return below(entry[key]) if entry.get(key) else None

    def text(value: object) -> str | None:
        if isinstance(value, dict | list):
            raise ValueError(value)
        return None if value is None else clean_text(str(value))

    if not entry["file_name"]:
        raise ValueError("file_name")
    file = below(entry["file_name"])
    caption = entry.get(columns.caption) if columns.caption else entry.get("text", entry.get("caption"))
    mask, conditioning = companion("mask_file_name"), companion("conditioning_image_file_name")
    label = entry.get(columns.label or "label")
    if isinstance(label, list):
        raise _SeveralLabels(
            f"{columns.label or 'label'} is a list, and an image has one label: write one column of true or false "
            "per possible label and list these in data.vector_columns."
        )
    return Row(file, file.relative_to(root), text(label), parse_caption(caption), mask, conditioning)


def _number(cell: str | None) -> float | str | None:
    """Return a CSV cell as a number, with 1 for true and 0 for false, or unchanged if it is none."""
    try:
        return None if cell is None else float({"true": 1, "false": 0}.get(cell.strip().lower(), cell))
    except ValueError:
        return cell


def _vector(entry: dict, columns: Columns, where: str) -> tuple[float, ...] | None:
    values = []
    for column in columns.vector:
        try:
            values.append(as_measurement(entry.get(column)))
        except ValueError as error:
            raise UserError(
                f"{where}: {column}, listed in data.vector_columns, must be a number, and {error}."
            ) from None
    return tuple(values) or None


def spelled(folder: Path, name: str) -> Path:
    """Return folder / name in the Unicode form in which it exists there, or unchanged if it exists in none."""
    if name.isascii():
        return folder / name
    for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
        if (folder / form).exists():
            return folder / form
    here = folder
    for part in Path(name).parts:  # the folder may be in one form and the file in another
        known = _by_composed_name(here, os.stat(here).st_mtime_ns) if here.is_dir() else {}
        here /= known.get(composed(part), part)
    return here


@lru_cache(maxsize=64)
def _by_composed_name(folder: Path, changed: int) -> dict[str, str]:
    return {composed(name): name for name in os.listdir(folder)}
