"""Signals outside of training: end the program without a traceback, a partial file or an empty folder."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType


def unwind(signum: int, frame: FrameType | None) -> None:
    """Exit as the shell reports a signal, with code 128 + signum; the handler that `exiting_cleanly` installs."""
    sys.exit(128 + signum)


def exiting_cleanly() -> AbstractContextManager[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, unless they are ignored or have another handler already."""
    return _handled((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL, unwind)


def leaving_silently() -> AbstractContextManager[None]:
    """Make Ctrl-C end the process at once and without a traceback; for the time in which libraries are imported."""
    return _handled((signal.SIGINT,), signal.default_int_handler, signal.SIG_DFL)


@contextmanager
def _handled(signals: tuple[signal.Signals, ...], default, handler) -> Iterator[None]:
    """In the main thread, replace the handler of those signals that still have the default one."""
    in_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    ours = [each for each in signals if in_main and signal.getsignal(each) == default]
    for each in ours:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, default)
