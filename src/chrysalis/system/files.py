"""Files and folders that are complete or absent: written beside their target, synced, then renamed."""

import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from chrysalis.system.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


REPOSITORY = Path(__file__).resolve().parents[3]
ELIDED = ".../"  # stands for the folders that a path outside the working folder lies in
_PART = r"[^/\n'\",=\[\]{}()<>|]"  # of a path, as it stands in a command or a configuration
_STARTS = r"(?<![\w.~/\\-])"
UMASK = _umask()  # once, before there are threads: reading it sets it for a moment, for all of them


@contextmanager
def written(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield a partial file beside `path`; on success it takes the name `path`, on an error it is removed.

    before: where a file that `path` already is stays; at every moment `path` is there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with open(partial, "rb") as f:
            os.fsync(f.fileno())
        partial.chmod(0o666 & ~UMASK)
        if before is not None and path.exists():
            _keep(path, before)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_folder(path: Path, keep_existing: bool = False) -> Iterator[Path]:
    """Yield a partial folder beside `path`; on success it replaces `path`, on an error it is removed.

    keep_existing: if `path` has come into being meanwhile, it stays and ours is dropped.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~UMASK)  # safetensors keeps its files from other users of the machine
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        partial.chmod(0o777 & ~UMASK)
        if path.exists() and keep_existing:
            return
        if path.exists():
            previous = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".previous", dir=path.parent))
            os.replace(path, previous / path.name)
            os.replace(partial, path)
            shutil.rmtree(previous)
        else:
            os.replace(partial, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep(path: Path, before: Path) -> None:
    """Let `before` be a second name of the file `path`, in one move."""
    link = path.with_name(f".{before.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without second names
        os.replace(path, before)
        return
    os.replace(link, before)


def read_mapping(path: Path, otherwise: str) -> dict:
    """A JSON file's object; raises UserError, the file's name and `otherwise`, for one that is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{shown(path)} {otherwise}")
    return found


def cache_folder() -> Path:
    """$CHRYSALIS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("CHRYSALIS_CACHE") or platformdirs.user_cache_dir("chrysalis"))


def write_text(path: Path, text: str) -> None:
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")


def shown(path: Path) -> str:
    """A path as a person here would type it."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def public(text: str) -> str:
    """A text for other people's eyes: each absolute path in it is relative to the working folder or to this repository,
    or, anywhere else, is its last name behind `.../`.

    What was typed relative stays as it was typed.
    """
    home = Path.home()
    for here in (Path.cwd(), REPOSITORY):
        if here != home and home.is_relative_to(here):  # relative to such a folder, a path still names the user
            continue
        text = re.sub(rf"{_STARTS}{re.escape(str(here))}/(?={_PART})", "", text)
    text = re.sub(rf"{_STARTS}{re.escape(str(home))}(?![\w.-])", "~", text)
    return re.sub(rf"{_STARTS}(?!//)(?:~[\w.-]*/|/{_PART}+/)(?:{_PART}+/)*(?={_PART})", ELIDED, text)


def all_public(node):
    """The same of every text in nested dicts and lists, keys included."""
    if isinstance(node, dict):
        return {public(key) if isinstance(key, str) else key: all_public(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [all_public(value) for value in node]
    return public(node) if isinstance(node, str) else node


def shown_program(name: str) -> str:
    """A program of this environment as a person here would type it: by name if that finds it, else by path."""
    here = Path(sys.executable).parent / name
    found = shutil.which(name)
    return name if found and Path(found).absolute() == here.absolute() else shown(here)


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[None]:
    """Have the folder for this process alone; raises UserError where another one has it. key: what it was chosen by.

    The lock is on the folder itself, and the system takes it away with the process, however that ends.
    """
    handle = None if fcntl is None else _locked(folder, key)
    try:
        yield
    finally:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it to forked processes that still live
            os.close(handle)


def _locked(folder: Path, key: str) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise UserError(f"{shown(folder)} cannot be written to: change its permissions, or choose another {key}.")
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise UserError(
                    f"{shown(folder)} is in use by another process: wait until it ends, or choose another {key}."
                ) from None
            return handle  # a file system without such locks
        if folder.is_dir() and os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
        os.close(handle)  # a process that ended meanwhile has taken its empty folder away


def remove_if_empty(folder: Path) -> None:
    """After a mistake nothing was written, and no empty folder stays, nor an empty one around it."""
    for path in (folder, folder.parent):
        if path.absolute() == Path.cwd():
            return
        try:
            path.rmdir()
        except OSError:
            return


def _sync(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
