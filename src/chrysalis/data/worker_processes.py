"""Processes that do not run the caller's script, which therefore needs no `if __name__ == "__main__":`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType


class FreshProcess(SpawnProcess):
    """A spawned process that imports what it is given and nothing else.

    A stock one first imports the script of its parent, and where that opens a set unguarded, each child would start
    children of its own. What it is given must come from modules other than the script.
    """

    @staticmethod
    def _Popen(process):
        with _no_script():
            return SpawnProcess._Popen(process)


class FreshContext(SpawnContext):
    """For ProcessPoolExecutor and DataLoader."""

    Process = FreshProcess


@contextmanager
def _no_script() -> Iterator[None]:
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # multiprocessing sends its file and spec, of which it has none
    try:
        yield
    finally:
        sys.modules["__main__"] = script
