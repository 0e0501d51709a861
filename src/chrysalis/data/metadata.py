"""What a metadata.jsonl or metadata.csv says of the images of a folder, by the rules of datasets' imagefolder."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from chrysalis.data.example import alternatives, cleaned, composed, measurement
from chrysalis.system.errors import UserError

NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Row:
    """One image of a folder: its file, its place below that folder, and what is known of it."""

    file: Path
    place: Path
    label: str | None = None
    caption: str | tuple[str, ...] | None = None  # a tuple: alternatives
    mask: Path | None = None
    conditioning: Path | None = None
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Columns:
    """The keys of the metadata that the user asked for by name."""

    label: str | None = None
    caption: str | None = None
    vector: tuple[str, ...] = ()

    def asked(self) -> list[tuple[str, str]]:
        """(key of the command line, key of the metadata) of each."""
        pairs = [("data.label_column", self.label), ("data.caption_column", self.caption)]
        return [pair for pair in pairs if pair[1] is not None] + [("data.vector_columns", c) for c in self.vector]


def listed(listing: Path, root: Path, columns: Columns) -> list[Row]:
    """The images that `listing` names, in a folder that is `root` or lies below it."""
    rows, keys = [], {}
    is_csv = listing.suffix == ".csv"
    place = listing.parent.relative_to(root)
    for number, line in (_records if is_csv else _objects)(listing):
        try:
            entry = {composed(key): value for key, value in line.items()}
            row = _row(entry, listing.parent, columns)
        except _Several as error:
            raise UserError(f"{listing} line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError):  # loops of links
            raise _bad(listing, number) from None
        if is_csv:
            entry |= {column: _number(entry.get(column)) for column in columns.vector}
        vector = _vector(entry, columns, f"{listing} line {number}")
        rows.append(replace(row, place=place / row.place, vector=vector))
        keys |= dict.fromkeys(key for key, value in entry.items() if value is not None)
    if not rows:
        raise UserError(
            f"{listing} lists no images: write one line for each image, or remove the file to use every image in "
            "its folder."
        )
    for key, column in columns.asked():
        if column not in keys:
            raise UserError(f"{key}={column} has no value in {listing}: its lines have {', '.join(keys)}.")
    return rows


def _bad(listing: Path, number: int) -> UserError:
    return UserError(
        f"{listing} line {number} is not an object with a file_name inside the folder and texts: mend or remove it."
    )


def _objects(listing: Path) -> Iterator[tuple[int, dict]]:
    """The lines of a JSONL file, each with its number."""
    for number, line in enumerate(_text_of(listing).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                raise _bad(listing, number) from None


def _records(listing: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The lines of a CSV file, in which an empty cell is an unknown value."""
    reader = csv.reader(io.StringIO(_text_of(listing), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if header and "file_name" not in header:
            raise UserError(
                f"{listing} has no column file_name: its first line is {', '.join(header)[:200]}. Call the column of "
                "the files file_name and separate columns by commas, or rename the file if it is about something else."
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
        raise UserError(f"{listing} line {reader.line_num} is not CSV: {error}. Mend or remove that line.") from None


def _text_of(listing: Path) -> str:
    try:
        return listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = listing.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{listing} line {line} is not UTF-8 text: save the file as UTF-8.") from None


class _Several(Exception):
    """A list where an image has one label."""


def _row(entry: dict, folder: Path, columns: Columns) -> Row:
    root = folder.resolve()

    def below(name: str | None) -> Path | None:
        path = spelled(root, name).resolve() if name else None
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
    label = entry.get(columns.label or "label")
    if isinstance(label, list):
        raise _Several(
            f"{columns.label or 'label'} is a list, and an image has one label: give each possible label a column "
            "of true or false and name these in data.vector_columns."
        )
    return Row(file, file.relative_to(root), text(label), alternatives(caption), mask, conditioning)


def _number(cell: str | None) -> float | str | None:
    """The number that a cell of a CSV file holds, 1 for true and 0 for false; the cell if it holds none."""
    try:
        return None if cell is None else float({"true": 1, "false": 0}.get(cell.strip().lower(), cell))
    except ValueError:
        return cell


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


def spelled(folder: Path, name: str) -> Path:
    """folder / name, in the Unicode form in which it exists there; as it is if it exists in none."""
    if name.isascii():
        return folder / name
    for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
        if (folder / form).exists():
            return folder / form
    here = folder
    for part in Path(name).parts:  # a folder in one form and a file in another
        known = _by_composed_name(here, os.stat(here).st_mtime_ns) if here.is_dir() else {}
        here /= known.get(composed(part), part)
    return here


@lru_cache(maxsize=64)
def _by_composed_name(folder: Path, changed: int) -> dict[str, str]:
    return {composed(name): name for name in os.listdir(folder)}
