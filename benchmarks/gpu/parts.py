"""A part of the program: its figures, its time limit and its record."""

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

MAX_LOG = 6000  # characters of a failed part's messages in the record


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
    """run: yields figures as they become known and raises if a check fails. needs: seconds on an NVIDIA H100."""

    name: str
    what: str
    run: Callable[..., Iterator[Figure]]
    needs: float


def require(condition: bool, message: str) -> None:
    """Raise AssertionError(message) unless the condition holds."""
    if not condition:
        raise AssertionError(message)


class OutOfTime(BaseException):
    """A part has used up its time. Not an Exception, which train.py and sample.py would handle."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after so many seconds where the system has timers (POSIX, the main thread), also in place of an
    exception that a library raises on it."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = False

    def interrupt(signum, frame):
        nonlocal is_over
        is_over = True
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    except Exception:
        if is_over:
            raise OutOfTime from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Budget:
    """The seconds used since `began` (of time.perf_counter) and those left of `seconds`."""

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

    about: commit, date, command and versions of this run, recorded with each of its parts.
    """

    def __init__(self, path: Path, machine: dict, about: dict, order: Sequence[str]):
        self.path, self.about, self.order = path, about, list(order)
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.content = {**before, **machine, "parts": before.get("parts", {})}

    def write(self, part: Part, status: str, figures: Sequence[Figure], seconds: float, reason: str | None) -> None:
        """Record a part so far, atomically. status: running | passed | failed | cut off | skipped."""
        known = {"what": part.what, "status": status, "seconds": round(seconds, 1)}
        known |= {"figures": [asdict(figure) for figure in figures], "measured": self.about}
        parts = self.content["parts"] | {part.name: known | ({"reason": reason} if reason else {})}
        place = {name: i for i, name in enumerate(self.order)}
        self.content["parts"] = dict(sorted(parts.items(), key=lambda item: place.get(item[0], len(place))))
        write_text(self.path, json.dumps(self.content, indent=1) + "\n")


def perform(part: Part, bench, record: Record, budget: Budget, print_line: Callable[[str], None]) -> str:
    """Run a part within the budget, print and record its figures one by one; returns its status."""
    began, figures = time.perf_counter(), []

    def line(text: str) -> None:
        print_line(f"{budget.used:4.0f} s  {part.name:<16} {text}")

    needs = bench.needs(part)
    if budget.left < needs:
        reason = (
            f"it needs about {needs:.0f} s, but {max(0, budget.left):.0f} s are left: raise --budget={budget.seconds:g}"
        )
        line(f"skipped: {reason}")
        record.write(part, "skipped", [], 0, reason)
        return "skipped"
    limit, log = min(budget.left, bench.limit(part)), io.StringIO()
    status, reason = "passed", None
    try:
        with redirect_stderr(log), bench.isolated(), at_most(limit):
            for figure in part.run(bench):
                figures.append(figure)
                line(str(figure))
                record.write(part, "running", figures, time.perf_counter() - began, None)
    except OutOfTime:
        # a part that the budget ends has not failed
        status = "cut off" if budget.left < 1 else "failed"
        reason = f"it did not finish within {limit:.0f} s"
    except Exception as error:  # the other parts run all the same
        status, reason = "failed", (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        log.write(traceback.format_exc())
    seconds = time.perf_counter() - began
    if reason:
        reason = without_folders(reason)
    if status == "failed":
        excerpt = without_folders(log.getvalue()[-MAX_LOG:])
        record.write(part, status, figures, seconds, f"{reason}\n{excerpt}")
        line(f"FAILED: {reason}")
        return status
    record.write(part, status, figures, seconds, reason)
    line(f"{status} ({seconds:.1f} s)" if reason is None else f"{status}: {reason}")
    return status
