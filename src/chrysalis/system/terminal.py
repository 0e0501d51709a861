"""What a person sees in the terminal: plain sentences and one named stage at a time, on standard error through rich."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

console = Console(stderr=True, highlight=False)

LINE_EVERY = 10.0  # seconds between the lines of a stage where there is no terminal
WIDE, ROOMY = 80, 100  # columns from which on there is room for a stage's figures, and for a long bar


def is_main_process() -> bool:
    """Of several, on one machine or more, the one that speaks and writes: Lightning, torchrun and srun number them."""
    return all(os.environ.get(n, "0") == "0" for n in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    if is_main_process():
        console.print(text, soft_wrap=True, markup=False)


def warn(text: str) -> None:
    if is_main_process():
        console.print(text, style="yellow", soft_wrap=True, markup=False)


class Stage:
    """A part of a program's work that takes its time. While another stage runs inside it, its clock stands still.

    what: its name. total: how many units it has, None where that is unknown. done: how many were done before.
    figures: what is shown beside its progress.
    """

    def __init__(self, what: str, total: float | None, done: float = 0, line_every: float = LINE_EVERY):
        self.what, self.total, self.done, self.figures, self.line_every = what, total, done, "", line_every
        self._first, self._seconds, self._since = done, 0.0, time.monotonic()
        self._line_at = self._since

    def advance(self, n: float) -> None:
        self.done += n
        if not console.is_terminal and is_main_process() and time.monotonic() - self._line_at >= self.line_every:
            self.line()

    def line(self) -> None:
        """Print how far it is, for a pipe or a file."""
        self._line_at = time.monotonic()
        say("  ".join(filter(None, (f"{self.what} {self.count()}".strip(), self.figures, self.left()))))

    def seconds(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    def pause(self) -> None:
        self._seconds, self._since = self.seconds(), None

    def go_on(self) -> None:
        self._since = self._line_at = time.monotonic()

    def count(self) -> str:
        if self.total is None:
            return f"{self.done:.0f}" if self.done else ""
        return f"{min(self.done, self.total):.0f}/{self.total:.0f}"

    def left(self) -> str:
        """'1:05 left' at the speed so far; how long it has taken where the total is unknown."""
        if self.total is None:
            return _clock(self.seconds())
        made = self.done - self._first
        if made <= 0:
            return "-:-- left"
        return f"{_clock(self.seconds() / made * max(0.0, self.total - self.done))} left"


class _Of(ProgressColumn):
    """One method of the stage that a row of the screen stands for."""

    def __init__(self, method: str):
        super().__init__()
        self.method = method

    def render(self, task) -> Text:
        return Text(getattr(task.fields["stage"], self.method)())


class _Screen:
    """The stages that are running, each inside the one before; the innermost is shown."""

    def __init__(self) -> None:
        self.running: list[Stage] = []
        self.bar: Progress | None = None

    def show(self) -> None:
        """The innermost stage in place of what was shown."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if self.running and console.is_terminal and is_main_process():
            self.bar = bar(console)
            add(self.bar, self.running[-1])
            self.bar.start()


_screen = _Screen()


def bar(on: Console) -> Progress:
    """Columns that fit a console's width, down to 50."""
    wide = on.width >= WIDE
    figures = [_Figures()] if wide else []
    shown = (
        TextColumn("{task.description}"),
        _Live(bar_width=8 if on.width < ROOMY else 30),
        _Of("count"),
        *figures,
        _Of("left"),
    )
    return Progress(*shown, console=on, transient=True)


class _Figures(ProgressColumn):
    def render(self, task) -> Text:
        return Text(task.fields["stage"].figures)


class _Live(BarColumn):
    """A bar that asks its stage how far it is, so that nothing has to be handed on."""

    def render(self, task):
        task.completed = task.fields["stage"].done
        return super().render(task)


def add(progress: Progress, stage: Stage) -> None:
    progress.add_task(stage.what, total=stage.total, stage=stage)


@contextmanager
def stage(what: str, total: float | None = None, done: float = 0, line_every: float = LINE_EVERY) -> Iterator[Stage]:
    """Show a stage while it runs: a bar in a terminal, a line every `line_every` seconds elsewhere."""
    if _screen.running:
        _screen.running[-1].pause()
    own = Stage(what, total, done, line_every)
    try:
        _screen.running.append(own)
        _screen.show()
        yield own
    finally:
        if own in _screen.running:
            del _screen.running[_screen.running.index(own) :]
            _screen.show()
            if _screen.running:
                _screen.running[-1].go_on()


def end_stages() -> None:
    """Take away what a broken-off run has left: Lightning asks no callback after one whose on_exception raises."""
    _screen.running.clear()
    _screen.show()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
