"""One bar for the whole run: step, loss, images/s, time left; plain lines where there is no terminal."""

import time

from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chrysalis.callbacks.clock import Clock, of
from chrysalis.callbacks.curves import Curves
from chrysalis.terminal import console, say


class ProgressBar(Callback):
    def __init__(self, lines: int = 10):
        """lines: how many lines a run prints where standard error is not a terminal."""
        self.lines, self._bar, self._began = lines, None, 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.total, self._first, self._began = total_steps(trainer), trainer.global_step, time.monotonic()
        self._shown = trainer.global_step
        if console.is_terminal:
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s "),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=self.total, completed=self._first, loss="-", speed="-")
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        step = trainer.global_step
        if step == self._shown:
            return
        loss, speed = of(trainer, Curves).latest, of(trainer, Clock).images_per_second()
        loss, speed = "-" if loss is None else f"{loss:.4f}", "-" if speed is None else f"{speed:.1f}"
        if self._bar:
            self._shown = step
            self._bar.update(self._task, completed=step, loss=loss, speed=speed)
        elif self.total and step * self.lines // self.total > self._shown * self.lines // self.total:
            self._shown = step
            elapsed = time.monotonic() - self._began
            left = elapsed / max(1, step - self._first) * (self.total - step)
            say(f"step {step}/{self.total}  loss {loss}  {speed} images/s  {left:.0f} s left")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


def total_steps(trainer: Trainer) -> int | None:
    steps = trainer.estimated_stepping_batches
    return None if steps in (-1, float("inf")) else int(steps)
