"""Which checkpoint of a run to continue from, without loading it: every record of the file has a checksum."""

import os
import zipfile
import zlib
from pathlib import Path

from chrysalis.errors import UserError
from chrysalis.files import shown
from chrysalis.terminal import is_main_process, warn

NAMES = ("last.ckpt", "previous.ckpt")  # in the order in which they are tried


def intact(path: Path) -> bool:
    """Whether a checkpoint is complete and unchanged: torch writes a zip archive with a CRC-32 of every tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False


def any_in(run: Path) -> bool:
    """Whether there is something to continue."""
    return (run / "config.yaml").is_file() and any((run / "checkpoints" / name).is_file() for name in NAMES)


def newest(run: Path) -> Path:
    """The newest intact checkpoint of a run; a damaged one is set aside and said.

    Raises UserError where there is none.
    """
    folder = run / "checkpoints"
    there = [folder / name for name in NAMES if (folder / name).is_file()]
    if not there:
        again = f"start it again with name={run.name}"
        raise UserError(f"resume={shown(run)} has no checkpoints/last.ckpt to continue from: {again}.")
    for path in there:
        if intact(path):
            return path
        _set_aside(path)
    raise UserError(
        f"resume={shown(run)} cannot be continued: {' and '.join(p.name for p in there)} in {shown(folder)} "
        f"{'are' if len(there) > 1 else 'is'} damaged. Start anew under another name."
    )


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    warn(f"{shown(path)} is damaged and is set aside as {aside.name}; the one before it is used, if there is one.")
    if is_main_process():
        os.replace(path, aside)


def sweep_up(run: Path) -> None:
    """Take away what a killed process was writing: partial files and folders, which have not got their names."""
    if not is_main_process():
        return
    import shutil

    for path in [*run.rglob(".*.partial"), *run.rglob(".*.previous")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
