"""Integrity of a cache folder: sizes, times and checksums of its files."""

import json
import os
import zlib
from pathlib import Path

from chrysalis.system.files import write_text

NAME = "checksums.json"
ALWAYS = 2**28  # bytes (half a second): larger files are read again only if their time has changed


def write(folder: Path) -> None:
    """Record all files of a complete folder."""
    files = sorted(path for path in folder.iterdir() if path.name != NAME)
    write_text(folder / NAME, json.dumps({path.name: [*_stamp(path), _crc32(path)] for path in files}))


def damaged(folder: Path) -> str | None:
    """Return the name of a file that is missing or changed, or None if all are intact."""
    try:
        recorded = json.loads((folder / NAME).read_text(encoding="utf-8"))
        for name, (size, time, crc) in recorded.items():
            stamp = _stamp(folder / name)
            trusted = size > ALWAYS and stamp == (size, time)
            if stamp[0] != size or not (trusted or _crc32(folder / name) == crc):
                return name
    except FileNotFoundError as error:
        return Path(error.filename).name
    except (ValueError, TypeError, AttributeError, OSError):
        return NAME
    return None


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc
