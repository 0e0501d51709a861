"""What ends a program outside of training: without a traceback, and without a partial file or an empty folder."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def unwind(signum: int, frame) -> None:
    """The handler that `ending_orderly` puts in the place of the default one."""
    sys.exit(128 + signum)


@contextmanager
def ending_orderly() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise SystemExit, unless somebody has a handler of their own or ignores them."""
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
    """Inside, where libraries are imported, Ctrl-C ends the process as the system does, and raises nothing."""
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
