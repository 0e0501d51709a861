"""The training stage on screen: step, loss, images per second, time left."""

from contextlib import ExitStack

from chrysalis.system.ranges import NotNegative
from chrysalis.system.terminal import Stage, console, stage
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.clock import Clock
from chrysalis.training.callbacks.loss_curves import Curves

LONGEST_SILENCE = 60.0  # seconds between two lines at most, where there is no terminal


class ProgressBar(Callback):
    """Shows a bar in a terminal and plain lines elsewhere."""

    def __init__(self, lines: NotNegative = 10):
        self.lines, self._open = lines, ExitStack()
        self._stage: Stage | None = None

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        self.total, self._shown = total_steps(trainer), trainer.global_step
        every = LONGEST_SILENCE if self.lines else float("inf")
        self._stage = self._open.enter_context(stage("training", self.total, trainer.global_step, every))

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        step, current = trainer.global_step, self._stage
        if current is None or step == current.done:
            return
        curves, speed = find(trainer, Curves), find(trainer, Clock).images_per_second()
        logged = curves.history[-1][0] if curves.history else 0
        at_step = "" if logged == step else f" (step {logged})"  # the loss is not read from the device at every step
        figures = (
            None if curves.average is None else f"loss {curves.average:.4f}{at_step}",
            None if speed is None else f"{speed:.1f} images/s",
        )
        current.figures = "  ".join(filter(None, figures))
        current.advance(step - current.done)
        due = self.total and step * self.lines // self.total > self._shown * self.lines // self.total
        if due and not console.is_terminal:
            self._shown = step
            current.line()

    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None:
        self._open.close()

    def on_exception(self, trainer: Trainer, module: FineTuning, exception: BaseException) -> None:
        self._open.close()


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run; None if it has no end."""
    steps = trainer.estimated_stepping_batches
    return None if steps in (-1, float("inf")) else int(steps)
