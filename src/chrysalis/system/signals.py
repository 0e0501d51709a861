"""Signals outside of training: the program ends without a traceback, a partial file or an empty folder."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def unwind(signum: int, frame: FrameType | None) -> None:
    """Exit as the shell reports a signal, with code 128 + signum; the handler that `ending_orderly` installs."""
    sys.exit(128 + signum)


@contextmanager
def ending_orderly() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, unless they are ignored or have another handler already."""
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    there = [getattr(signal, name) for name in names if hasattr(signal, name)]
    plain = [signum for signum in there if signal.getsignal(signum) == signal.SIG_DFL]
    for signum in plain:
        signal.signal(signum, unwind)
    try:
        yield
    finally:
        for signum in plain:
            signal.signal(signum, signal.SIG_DFL)


@contextmanager
def leaving_silently() -> Iterator[None]:
    """Make Ctrl-C end the process at once and without a traceback; for the time in which libraries are imported."""
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
