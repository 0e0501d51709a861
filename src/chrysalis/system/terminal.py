"""Output in the terminal: messages, and the progress of one named stage at a time, on standard error through rich."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

console = Console(stderr=True, highlight=False)

LINE_EVERY = 10.0  # seconds between the lines of a stage where there is no terminal
WIDE, ROOMY = 80, 100  # columns from which a stage's figures fit, and a long bar


def is_main_process() -> bool:
    """Whether this process, of one or many, is the one that prints and writes files."""
    # the ranks as Lightning, torchrun and srun number them
    return all(os.environ.get(n, "0") == "0" for n in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def say(text: str, style: str | None = None) -> None:
    """Print a message, in the main process only."""
    if is_main_process():
        console.print(text, style=style, soft_wrap=True, markup=False)


def warn(text: str) -> None:
    """Print a warning in yellow, in the main process only."""
    say(text, style="yellow")


class Stage:
    """A part of a program's work whose progress is shown. Its clock stops while another stage runs inside it.

    what: its name. total: its number of units; None if unknown. done: units that were done before it began. line_every:
    seconds between the lines printed where there is no terminal. figures: an attribute, text beside the progress.
    """

    def __init__(self, what: str, total: float | None, done: float = 0, line_every: float = LINE_EVERY):
        self.what, self.total, self.done, self.figures, self.line_every = what, total, done, "", line_every
        self._first, self._seconds = done, 0.0
        self.resume()

    def advance(self, n: float) -> None:
        """Count `n` more units, and print a line if one is due."""
        self.done += n
        if not console.is_terminal and time.monotonic() - self._line_at >= self.line_every:
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
        """Start the clock, and wait for `line_every` seconds until the next line."""
        self._since: float | None = time.monotonic()
        self._line_at = self._since

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

    def row(self, width: int) -> Table:
        """One line with the name, a bar, the count and the time left; in `width` >= 80 columns also the figures."""
        bar = ProgressBar(self.total, self.done, width=8 if width < ROOMY else 30)
        texts = (self.count(), *([self.figures] if width >= WIDE else []), self.left())
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(self.what), bar, *map(Text, texts))
        return row


_running: list[Stage] = []  # each inside the one before; the innermost is shown
_live = Live(
    console=console,
    get_renderable=lambda: _running[-1].row(console.width) if _running else "",
    refresh_per_second=10,
    transient=True,
)


def _show() -> None:
    """In a terminal, show the innermost stage instead of the one shown before."""
    if not _running:
        _live.stop()
    elif console.is_terminal and is_main_process():
        _live.start()
        _live.refresh()


@contextmanager
def stage(what: str, total: float | None = None, done: float = 0, line_every: float = LINE_EVERY) -> Iterator[Stage]:
    """Show a stage while it runs: a bar in a terminal, a line every `line_every` seconds elsewhere. See Stage."""
    if _running:
        _running[-1].pause()
    own = Stage(what, total, done, line_every)
    try:
        _running.append(own)
        _show()
        yield own
    finally:
        if own in _running:
            del _running[_running.index(own) :]
            _show()
            if _running:
                _running[-1].resume()


def end_stages() -> None:
    """Remove the stages that an interrupted run left: Lightning calls no callback after one that raises."""
    _running.clear()
    _show()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
