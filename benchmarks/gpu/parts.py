"""A part of the program: what it yields, how long it may take, and what the record keeps of it."""

import io
import json
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.speed.report import without_folders
from chrysalis.system.files import write_text

KEPT = 6000  # characters of a failed part's messages


@dataclass(frozen=True)
class Figure:
    """One result of a part."""

    name: str
    value: float | int | str
    unit: str = ""

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:,.4g}"
        if isinstance(self.value, float | int) and abs(self.value) >= 1000:
            value = f"{self.value:,.0f}"
        return f"{self.name}: {value} {self.unit}".rstrip()


@dataclass(frozen=True)
class Part:
    """run: yields figures as they become known; raises where a check fails. needs: seconds on an NVIDIA H100."""

    name: str
    what: str
    run: Callable[..., Iterator[Figure]]
    needs: float


def require(holds: bool, otherwise: str) -> None:
    """Raise AssertionError(otherwise) unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


class OutOfTime(BaseException):
    """A part has used up its time. Not an Exception, which train.py and sample.py would report as their own."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after so many seconds, where the system has timers (POSIX, the main thread).

    Also in place of what a library may have made of it inside.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    rang = False

    def ring(signum, frame):
        nonlocal rang
        rang = True
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    except Exception:
        if rang:
            raise OutOfTime from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Budget:
    """Seconds since `began` (of time.perf_counter) and those that are left of `seconds`."""

    def __init__(self, seconds: float, began: float):
        self.seconds, self.began = seconds, began

    @property
    def used(self) -> float:
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.used


class Record:
    """The JSON file: {"machine": ..., "parts": {name: {...}}}; parts of earlier runs stay until they are run again.

    about: commit, date, command and versions of this run, kept with each of its parts.
    """

    def __init__(self, path: Path, machine: dict, about: dict, order: Sequence[str]):
        self.path, self.about, self.order = path, about, list(order)
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.content = {**before, **machine, "parts": before.get("parts", {})}

    def write(self, part: Part, status: str, figures: Sequence[Figure], seconds: float, reason: str | None) -> None:
        """What is known of a part by now, atomically. status: running | passed | failed | cut off | skipped."""
        known = {"what": part.what, "status": status, "seconds": round(seconds, 1)}
        known |= {"figures": [asdict(figure) for figure in figures], "measured": self.about}
        parts = self.content["parts"] | {part.name: known | ({"reason": reason} if reason else {})}
        at = {name: i for i, name in enumerate(self.order)}
        self.content["parts"] = dict(sorted(parts.items(), key=lambda item: at.get(item[0], len(at))))
        write_text(self.path, json.dumps(self.content, indent=1) + "\n")


def perform(part: Part, bench, record: Record, budget: Budget, tell: Callable[[str], None]) -> str:
    """Run a part within the budget, tell and record its figures one by one; returns its status."""
    began, figures = time.perf_counter(), []

    def line(text: str) -> None:
        tell(f"{budget.used:4.0f} s  {part.name:<16} {text}")

    needs = bench.needs(part)
    if budget.left < needs:
        reason = f"it needs about {needs:.0f} s, and {max(0, budget.left):.0f} s of the budget are left"
        line(f"skipped: {reason}")
        record.write(part, "skipped", [], 0, reason)
        return "skipped"
    limit, said = min(budget.left, bench.limit(part)), io.StringIO()
    status, reason = "passed", None
    try:
        with redirect_stderr(said), bench.base_model(), at_most(limit):
            for figure in part.run(bench):
                figures.append(figure)
                line(str(figure))
                record.write(part, "running", figures, time.perf_counter() - began, None)
    except OutOfTime:
        # a slow part is no failure where it is the budget that ends it
        status = "cut off" if budget.left < 1 else "failed"
        reason = f"it was not done after {limit:.0f} s"
    except Exception as error:  # a part that fails is no reason to lose the others
        status, reason = "failed", (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        said.write(traceback.format_exc())
    seconds = time.perf_counter() - began
    if reason:
        reason = without_folders(reason)
    if status == "failed":
        kept = without_folders(said.getvalue()[-KEPT:])
        record.write(part, status, figures, seconds, f"{reason}\n{kept}")
        line(f"FAILED: {reason}")
        return status
    record.write(part, status, figures, seconds, reason)
    line(f"{status} ({seconds:.1f} s)" if reason is None else f"{status}: {reason}")
    return status
