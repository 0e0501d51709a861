"""Write files and folders atomically, lock folders for one process, and name them in messages."""

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from chrysalis.system.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
UMASK = os.umask(0)  # read once, before there are threads: reading it sets it for a moment, for all of them
os.umask(UMASK)


@contextmanager
def written(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield a partial file beside `path`, which is renamed to `path` on success and deleted on an error.

    before: a second name under which the file that `path` replaces stays; where there are hard links, `path` exists
    at every moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix=".partial", dir=path.parent, delete=False) as file:
        partial = Path(file.name)
    try:
        yield partial
        _set_mode_and_sync(partial, 0o666)
        if before is not None and path.exists():
            _keep(path, before)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Yield a partial folder beside `path`, which replaces `path` on success and is deleted on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _set_mode_and_sync(file, 0o666)  # safetensors makes its files unreadable for other users
        _set_mode_and_sync(partial, 0o777)
        previous = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".previous", dir=path.parent))
        with suppress(FileNotFoundError):
            os.replace(path, previous / path.name)
        os.replace(partial, path)
        shutil.rmtree(previous)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _set_mode_and_sync(path: Path, mode: int) -> None:
    path.chmod(mode & ~UMASK)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _keep(path: Path, before: Path) -> None:
    """Make `before` a second name of the file `path`, in one step."""
    link = path.with_name(f".{before.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, before)
    else:
        os.replace(link, before)


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[None]:
    """Lock a folder, made if it is missing, for this process alone, for the block or until the process ends.

    key: the configuration key that chose the folder, for messages. Raises UserError if another process has it, or it
    cannot be written to.
    """
    handle = _locked(folder, key)
    try:
        yield
    finally:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it to forked processes that still live
        os.close(handle)


def _locked(folder: Path, key: str) -> int:
    """Lock a folder, except on a file system without locks, and return its descriptor."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise UserError(f"{shown(folder)} cannot be written to: change its permissions, or choose another {key}.")
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            raise UserError(
                f"{shown(folder)} is in use by another process: wait until it ends, or choose another {key}."
            ) from None
        except OSError:
            return handle
        if folder.is_dir() and os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
        os.close(handle)  # a process that ended meanwhile has removed its empty folder


def read_mapping(path: Path, otherwise: str) -> dict:
    """Read a JSON file's object; raise UserError(FILE `otherwise`) if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{shown(path)} {otherwise}")
    return found


def cache_folder() -> Path:
    """The folder for decoded images, features and compiled code: $CHRYSALIS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("CHRYSALIS_CACHE") or platformdirs.user_cache_dir("chrysalis"))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")


def shown(path: Path) -> str:
    """A path for messages, relative to the working folder if it lies in it."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def shown_program(name: str) -> str:
    """A program of this environment as one would type it: by name if the shell finds it so, else by path."""
    here = Path(sys.executable).parent / name
    found = shutil.which(name)
    return name if found and Path(found).absolute() == here.absolute() else shown(here)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder and the one around it, as far as they are empty and not the working folder."""
    with suppress(OSError):
        for path in (folder, folder.parent):
            if path.absolute() != Path.cwd():
                path.rmdir()
