"""The training stage for the whole run: step, loss, images/s, time left; plain lines where there is no terminal."""

from contextlib import ExitStack

from lightning import Callback, LightningModule, Trainer

from chrysalis.system.terminal import Stage, console, stage
from chrysalis.training.callbacks.clock import Clock, of
from chrysalis.training.callbacks.loss_curves import Curves

SILENCE = 60.0  # seconds without a line at most, where there is no terminal


class ProgressBar(Callback):
    def __init__(self, lines: int = 10):
        """lines: how many lines a run prints where standard error is not a terminal, if it has none every minute."""
        self.lines, self._open = lines, ExitStack()
        self._stage: Stage | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.total, self._shown = total_steps(trainer), trainer.global_step
        every = SILENCE if self.lines else float("inf")
        self._stage = self._open.enter_context(stage("training", self.total, trainer.global_step, every))

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        step = trainer.global_step
        if step == self._stage.done:
            return
        curves, speed = of(trainer, Curves), of(trainer, Clock).images_per_second()
        read = curves.history[-1][0] if curves.history else 0
        of_step = "" if read == step else f" (step {read})"  # it is read from the device now and then
        figures = (
            None if curves.latest is None else f"loss {curves.latest:.4f}{of_step}",
            None if speed is None else f"{speed:.1f} images/s",
        )
        self._stage.figures = "  ".join(filter(None, figures))
        self._stage.advance(step - self._stage.done)
        due = self.total and step * self.lines // self.total > self._shown * self.lines // self.total
        if due and not console.is_terminal:
            self._shown = step
            self._stage.line()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._open.close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._open.close()


def total_steps(trainer: Trainer) -> int | None:
    steps = trainer.estimated_stepping_batches
    return None if steps in (-1, float("inf")) else int(steps)
