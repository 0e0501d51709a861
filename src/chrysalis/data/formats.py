"""Reading of image files with Pillow and its plugins, and which plugin to install for a format."""

import functools
import importlib
import io
import os
import stat
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features

COMMON = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
RARER = {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".psd", ".qoi"}
BUILT_IN = {"avif": {".avif", ".avifs"}, "jpg_2000": {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}}
PLUGINS = {"pillow_heif": {".heic", ".heics", ".heif", ".heifs", ".hif"}, "pillow_jxl": {".jxl"}}
INSTALL = {"pillow_heif": 'pip install "chrysalis[heif]"', "pillow_jxl": "pip install pillow-jxl-plugin"}
LARGEST_FILE = 2**29  # bytes: several are read at once


class PluginMissing(ValueError):
    """A plugin must be installed to open a file; the message names it."""


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the lower-case suffixes of image files that can be opened with the installed packages."""
    built_in = [known for feature, known in BUILT_IN.items() if features.check(feature)]
    return frozenset(COMMON | RARER).union(*built_in, *(PLUGINS[name] for name in PLUGINS if find_spec(name)))


def read_bytes(file: Path) -> bytes:
    """Return the bytes of a regular file of limited size.

    Raises:
        ValueError: it is a folder, a pipe (reading would block), a device (reading may never end) or too large.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file" if stat.S_ISDIR(status.st_mode) else "not a file, but a pipe or a device")
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"a file of {status.st_size / 2**20:.0f} MiB, more than {LARGEST_FILE / 2**20:.0f} MiB")
    return file.read_bytes()


def open_image(data: bytes) -> Image.Image:
    """Open the image in a file's bytes without decoding it.

    Raises:
        UnidentifiedImageError: it is not an image.
        PluginMissing: the plugin that opens it is not installed.
    """
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        plugin = _plugin_for(data)
        if plugin is None:
            raise
    try:
        module = importlib.import_module(plugin)  # on first use, as importing is slow
    except ImportError:
        raise PluginMissing(f"it needs {plugin}, which is not installed: {INSTALL[plugin]}") from None
    if plugin == "pillow_heif":
        module.register_heif_opener()
    return Image.open(io.BytesIO(data))


def _plugin_for(data: bytes) -> str | None:
    """Return the plugin for a file by its first bytes: phones often save HEIF photographs with the suffix .jpg."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "pillow_heif"
    return "pillow_jxl" if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")) else None


def unused_note(counts: Mapping[str, int]) -> str:
    """Return a sentence on files that are not used, or "". counts: their number by suffix."""
    if not counts:
        return ""
    shown = sorted(counts, key=lambda suffix: (-counts[suffix], suffix))
    hints = {suffix: f" ({INSTALL[name]})" for name, known in PLUGINS.items() for suffix in known}
    parts = [f"{counts[suffix]} {suffix or 'without suffix'}{hints.get(suffix, '')}" for suffix in shown[:8]]
    if len(shown) > 8:
        parts.append(f"{sum(counts[suffix] for suffix in shown[8:])} others")
    return f"Files not used: {', '.join(parts)}."
