"""One process at a time in a folder: a lock that the operating system releases when the process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[None]:
    """Lock a folder, made if it is missing, for this process alone.

    Args:
        key: the configuration key that chose the folder, for messages.

    Raises:
        UserError: another process has it, or it cannot be written to.
    """
    handle = _locked(folder, key)
    try:
        yield
    finally:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it to forked processes that still live
        os.close(handle)


def _locked(folder: Path, key: str) -> int:
    """The descriptor of a locked folder, without a lock on a file system that has none."""
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
