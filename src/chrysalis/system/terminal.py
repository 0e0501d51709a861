"""Output in the terminal: messages, and the progress of one named stage at a time, on standard error through rich."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

console = Console(stderr=True, highlight=False)

LINE_EVERY = 10.0  # seconds between the lines of a stage where there is no terminal
WIDE, ROOMY = 80, 100  # columns from which a stage's figures fit, and a long bar


def is_main_process() -> bool:
    """Whether this process, of one or many, is the one that prints and writes files."""
    # the ranks as Lightning, torchrun and srun number them
    return all(os.environ.get(n, "0") == "0" for n in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    """Print a message, in the main process only."""
    if is_main_process():
        console.print(text, soft_wrap=True, markup=False)


def warn(text: str) -> None:
    """Print a warning in yellow, in the main process only."""
    if is_main_process():
        console.print(text, style="yellow", soft_wrap=True, markup=False)


class Stage:
    """A part of a program's work whose progress is shown. Its clock stops while another stage runs inside it.

    Args:
        what: its name.
        total: its number of units; None if unknown.
        done: units that were done before it began.
        line_every: seconds between the lines printed where there is no terminal.

    Attributes:
        figures: text shown beside the progress.
    """

    def __init__(self, what: str, total: float | None, done: float = 0, line_every: float = LINE_EVERY):
        self.what, self.total, self.done, self.figures, self.line_every = what, total, done, "", line_every
        self._first, self._seconds = done, 0.0
        self._line_at = time.monotonic()
        self._since: float | None = self._line_at

    def advance(self, n: float) -> None:
        """Count `n` more units, and print a line if one is due."""
        self.done += n
        if not console.is_terminal and is_main_process() and time.monotonic() - self._line_at >= self.line_every:
            self.line()

    def line(self) -> None:
        """Print the progress as a line, for a pipe or a file."""
        self._line_at = time.monotonic()
        say("  ".join(filter(None, (f"{self.what} {self.count()}".strip(), self.figures, self.left()))))

    def seconds(self) -> float:
        """Seconds on its own clock."""
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    def pause(self) -> None:
        """Stop the clock."""
        self._seconds, self._since = self.seconds(), None

    def resume(self) -> None:
        """Start the clock again."""
        self._since = self._line_at = time.monotonic()

    def count(self) -> str:
        """'3200/12800', or the units done where the total is unknown."""
        if self.total is None:
            return f"{self.done:.0f}" if self.done else ""
        return f"{min(self.done, self.total):.0f}/{self.total:.0f}"

    def left(self) -> str:
        """'1:05 left' at the speed so far; the time taken where the total is unknown."""
        if self.total is None:
            return _clock(self.seconds())
        made = self.done - self._first
        if made <= 0:
            return "-:-- left"
        return f"{_clock(self.seconds() / made * max(0.0, self.total - self.done))} left"


class _StageText(ProgressColumn):
    """A column whose text is read off the stage of its row."""

    def __init__(self, text: Callable[[Stage], str]):
        super().__init__()
        self.text = text

    def render(self, task: Task) -> Text:
        return Text(self.text(task.fields["stage"]))


class _Screen:
    """The running stages, each inside the one before; the innermost is shown."""

    def __init__(self) -> None:
        self.running: list[Stage] = []
        self.bar: Progress | None = None

    def show(self) -> None:
        """Show the innermost stage instead of the one shown before."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if self.running and console.is_terminal and is_main_process():
            self.bar = bar(console)
            add(self.bar, self.running[-1])
            self.bar.start()


_screen = _Screen()


def bar(on: Console) -> Progress:
    """A progress bar whose columns fit a console's width, down to 50."""
    figures = [_StageText(lambda stage: stage.figures)] if on.width >= WIDE else []
    columns = (
        TextColumn("{task.description}"),
        _Live(bar_width=8 if on.width < ROOMY else 30),
        _StageText(Stage.count),
        *figures,
        _StageText(Stage.left),
    )
    return Progress(*columns, console=on, transient=True)


class _Live(BarColumn):
    """A bar that reads its progress off its stage."""

    def render(self, task: Task) -> ProgressBar:
        task.completed = task.fields["stage"].done
        return super().render(task)


def add(progress: Progress, stage: Stage) -> None:
    """Add a stage to a bar as a row."""
    progress.add_task(stage.what, total=stage.total, stage=stage)


@contextmanager
def stage(what: str, total: float | None = None, done: float = 0, line_every: float = LINE_EVERY) -> Iterator[Stage]:
    """Show a stage while it runs: a bar in a terminal, a line every `line_every` seconds elsewhere. See Stage."""
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
                _screen.running[-1].resume()


def end_stages() -> None:
    """Remove the stages that an interrupted run left: Lightning calls no callback after one that raises."""
    _screen.running.clear()
    _screen.show()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
