"""Reader of metadata.jsonl and metadata.csv, by the rules of the imagefolder builder of `datasets`."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from chrysalis.data.columns import COLUMNS, BadValue, Images, Numbers, composed
from chrysalis.system.errors import UserError

NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Row:
    """One image of a folder: its file, its path relative to that folder, and its metadata.

    columns: by name, what Column.read returns; a path where the value is in another file.
    """

    file: Path
    place: Path
    columns: Mapping[str, Any]

    def with_text_file(self) -> "Row":
        """Return the row, captioned by the .txt file beside its image if it has no caption; the file need not exist."""
        if self.columns.get("caption") is not None:
            return self
        return replace(self, columns={**self.columns, "caption": spelled(self.file.parent, f"{self.file.stem}.txt")})


def settings(keys: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return (configuration key, metadata key) for each metadata key that the configuration names."""
    return [(COLUMNS[name].setting, key) for name, given in keys.items() for key in given]


def read_rows(listing: Path, root: Path, keys: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return the images that the file `listing` names, which lies in `root` or below it. keys: see rows_below."""
    rows, found = [], {}
    is_csv = listing.suffix == ".csv"
    place = listing.parent.relative_to(root)
    for number, line in (_records if is_csv else _lines)(listing):
        try:
            fields = json.loads(line) if isinstance(line, str) else line
            entry = {composed(key): value for key, value in fields.items()}
            row = _row(entry, listing.parent, keys, is_csv)
        except BadValue as error:
            raise UserError(f"{listing} line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError):  # the last two: link loops
            raise UserError(
                f"{listing} line {number} is not an object with text values and a file_name inside the folder: fix "
                "or remove it."
            ) from None
        rows.append(replace(row, place=place / row.place))
        found |= dict.fromkeys(key for key, value in entry.items() if value is not None)
    if not rows:
        raise UserError(
            f"{listing} lists no images: write one line per image, or remove the file to use all images in its folder."
        )
    for setting, key in settings(keys):
        if key not in found:
            raise UserError(f"{setting}={key} has no value in {listing}: choose from {', '.join(found)}.")
    return rows


def _lines(listing: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a JSONL file."""
    return ((number, line) for number, line in enumerate(_text_of(listing).split("\n"), 1) if line.strip())


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


def _row(entry: dict, folder: Path, keys: Mapping[str, Sequence[str]], is_csv: bool) -> Row:
    root = folder.resolve()

    def below(name: str) -> Path:
        path = spelled(root, name).resolve()
        if not path.is_relative_to(root) or path.is_symlink():  # still a link: a loop
            raise ValueError(name)
        return path

    if not entry["file_name"]:
        raise ValueError("file_name")
    file, columns = below(entry["file_name"]), {}
    for name, column in COLUMNS.items():
        own_keys = keys.get(name, column.keys)
        cells = {key: _number(entry[key]) for key in own_keys if key in entry} if is_csv else {}
        value = column.read(cells if is_csv and isinstance(column, Numbers) else entry, own_keys)
        if isinstance(column, Images):
            value = below(value) if value else None
        columns[name] = value
    return Row(file, file.relative_to(root), columns)


def _number(cell: str | None) -> float | str | None:
    """Return a CSV cell as a number, with 1 for true and 0 for false, or unchanged if it is not one."""
    try:
        return None if cell is None else float({"true": 1, "false": 0}.get(cell.strip().lower(), cell))
    except ValueError:
        return cell


def spelled(folder: Path, name: str) -> Path:
    """Return folder / name in the Unicode form in which it exists there, or as given if it does not exist."""
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
def _by_composed_name(folder: Path, mtime_ns: int) -> dict[str, str]:  # mtime_ns is part of the cache key
    return {composed(name): name for name in os.listdir(folder)}
