"""What a person sees in the terminal: plain sentences and progress bars, on standard error through rich."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


def is_main_process() -> bool:
    """Of several, on one machine or more, the one that speaks and writes: Lightning, torchrun and srun number them."""
    return all(os.environ.get(n, "0") == "0" for n in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    if is_main_process():
        console.print(text, soft_wrap=True, markup=False)


def warn(text: str) -> None:
    if is_main_process():
        console.print(text, style="yellow", soft_wrap=True, markup=False)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that goes away when done; yields the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not is_main_process()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
