"""Worker processes that do not import the caller's script, which then needs no `if __name__ == "__main__":`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType


class FreshProcess(SpawnProcess):
    """A spawned process that imports only the modules of what it is given, never the script.

    A standard one first imports its parent's script; if that opens a set unguarded, each child would start children of
    its own.
    """

    @staticmethod
    def _Popen(process_obj):
        with _no_script():
            return SpawnProcess._Popen(process_obj)


class FreshContext(SpawnContext):
    """Multiprocessing context of FreshProcess for ProcessPoolExecutor and DataLoader."""

    Process = FreshProcess


@contextmanager
def _no_script() -> Iterator[None]:
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # without the file and spec that multiprocessing would send
    try:
        yield
    finally:
        sys.modules["__main__"] = script
