"""Choosing the checkpoint to resume from, without loading it: every record of the file has a checksum."""

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.terminal import warn

NAMES = ("last.ckpt", "previous.ckpt")  # in the order in which they are tried


def intact(path: Path) -> bool:
    """Whether a checkpoint is complete and unchanged: torch writes a zip archive with a CRC-32 of every tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False


def any_in(run: Path) -> bool:
    """Whether a run folder holds something to resume from."""
    return (run / "config.yaml").is_file() and any((run / "checkpoints" / name).is_file() for name in NAMES)


def newest(run: Path) -> Path:
    """Return the newest intact checkpoint of a run, and warn of damaged ones; raise UserError if none is intact."""
    folder = run / "checkpoints"
    there = [folder / name for name in NAMES if (folder / name).is_file()]
    if not there:
        raise UserError(f"resume={shown(run)} has no checkpoints/last.ckpt: start it again with name={run.name}.")
    for path in there:
        if intact(path):
            return path
        warn(f"{shown(path)} is damaged and will be set aside: the previous checkpoint is used, if there is one.")
    raise UserError(
        f"resume={shown(run)} cannot be resumed: {' and '.join(p.name for p in there)} in {shown(folder)} "
        f"{'are' if len(there) > 1 else 'is'} damaged. Start again under another name."
    )


def tidy(run: Path, chosen: Path) -> None:
    """Clean up a run folder before training resumes from the chosen checkpoint.

    Newer ones, which are damaged, are renamed to NAME.damaged; what a killed process left unfinished is deleted.
    """
    for name in NAMES[: NAMES.index(chosen.name)]:
        if (damaged := chosen.with_name(name)).exists():
            os.replace(damaged, damaged.with_name(f"{name}.damaged"))
    for path in [*run.rglob(".*.partial"), *run.rglob(".*.previous")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
