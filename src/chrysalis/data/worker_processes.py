"""Worker processes that do not import the caller's script, which then needs no `if __name__ == "__main__":`."""

import sys
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType


class FreshProcess(SpawnProcess):
    """A spawned process that imports only the modules of what it is given, never the script.

    A standard one first imports its parent's script; if that opens a set unguarded, each child would start children of
    its own.
    """

    @staticmethod
    def _Popen(process_obj):
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # without the file and spec that multiprocessing would send
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = script


class FreshContext(SpawnContext):
    """Multiprocessing context of FreshProcess for ProcessPoolExecutor and DataLoader."""

    Process = FreshProcess
