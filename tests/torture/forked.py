"""train.py and sample.py many times: the libraries are imported once, and each input runs in a forked process."""

import importlib
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds; a child that takes longer has failed


@dataclass(frozen=True)
class Case:
    """One command. names: words of which its message must hold one. prepare: makes files in the empty folder."""

    program: str
    overrides: tuple[str, ...]
    names: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None


@dataclass
class Ended:
    case: Case
    code: int | None  # None: it was ended after LIMIT
    said: str
    seconds: float
    left: list[str] = field(default_factory=list)  # files that were not there before, or have changed

    def fault(self) -> str | None:
        """What is wrong with how it ended; None for success, and for a mistake with a proper message."""
        if self.code is None:
            return f"took more than {LIMIT:.0f} s"
        if "Traceback" in self.said or self.code not in (0, 2):
            return f"exit code {self.code}"
        if self.code == 0:
            return None
        if not any(name in self.said for name in self.case.names):
            return "names neither key nor file"
        began = any("/nonfinite/" in file for file in self.left)  # a run that diverged keeps what repeats it
        return f"left {self.left[:5]}" if self.left and not began else None

    def __str__(self) -> str:
        return f"{self.fault()}: {self.case.program}.py {list(self.case.overrides)}\n{self.said[-3000:]}"


def preload() -> None:
    """Import all that the programs would; called once, before the first fork."""
    sys.path.insert(0, str(REPOSITORY))
    from chrysalis.command.quick_start import import_libraries

    import_libraries()
    import torch

    import chrysalis

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(chrysalis.__path__, "chrysalis."):
        importlib.import_module(module.name)
    for name in ("train", "sample", "torch.utils.tensorboard", "datasets", "peft", "torch._dynamo"):
        importlib.import_module(name)


def run_all(cases: Sequence[Case], folder: Path, at_once: int = 2) -> Iterator[Ended]:
    """Each case in a folder of its own below `folder`, in any order."""
    running: dict[int, tuple[Case, Path, dict, float]] = {}
    waiting = list(enumerate(cases))[::-1]
    while waiting or running:
        while waiting and len(running) < at_once:
            number, case = waiting.pop()
            place = folder / f"{number:05d}"
            (place / "here").mkdir(parents=True)
            if case.prepare:
                case.prepare(place / "here")
            before = _files(place / "here")
            running[_forked(case, place)] = (case, place, before, time.monotonic())
        for pid, (case, place, before, began) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.monotonic() - began
            if not done and seconds < LIMIT:
                continue
            if not done:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            del running[pid]
            said = (place / "said").read_text(encoding="utf-8", errors="replace")
            left = sorted(name for name, state in _files(place / "here").items() if before.get(name) != state)
            yield Ended(case, os.waitstatus_to_exitcode(status) if done else None, said, seconds, left)
        time.sleep(0.005)


def _files(folder: Path) -> dict[str, tuple]:
    """Every file and folder below, with what changes when it does."""
    found = {}
    for here, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(here, name))
            is_folder = name in folders
            found[os.path.relpath(os.path.join(here, name), folder)] = (
                () if is_folder else (status.st_size, status.st_mtime_ns)
            )
    return found


def _forked(case: Case, place: Path) -> int:
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        output = os.open(place / "said", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False) for fd in (1, 2))  # noqa: SIM115
        os.chdir(place / "here")
        os.environ["CHRYSALIS_CACHE"] = str(place / "cache")
        sys.argv = [f"{case.program}.py", *case.overrides]
        sys.modules["torch"].set_num_threads(1)  # anew: its thread pool does not live on in a fork
        code = _called(case.program)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _called(program: str) -> int:
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        getattr(importlib.import_module(program), program)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0
