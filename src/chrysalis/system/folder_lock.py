"""One process at a time in a folder: a lock that the operating system releases when the process ends."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


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
        if fcntl is not None and handle is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it to forked processes that still live
            os.close(handle)


def _locked(folder: Path, key: str) -> int | None:
    """The descriptor of a locked folder; None on a system without such locks."""
    if fcntl is None:
        return None
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
        os.close(handle)  # a process that ended meanwhile has removed its empty folder
