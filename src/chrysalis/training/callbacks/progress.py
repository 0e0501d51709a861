"""Time, speed, loss, learning rate and gradient norm of training: logged every few steps, and shown on screen."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from chrysalis.diffusion.mixing import ema_decay
from chrysalis.diffusion.weighting import Uniform
from chrysalis.system.ranges import FractionBelow1, NotNegative
from chrysalis.system.terminal import console, stage
from chrysalis.training.callbacks.base import Batch, Callback, Trainer, TrainingModule, find
from chrysalis.training.logger import hide_after, log_metrics

LONGEST_SILENCE = 60.0  # seconds between two lines at most, where there is no terminal


class Clock(Callback):
    """Counts images and seconds of training, without measurements and sampling."""

    def __init__(self, warmup_steps: NotNegative = 3):
        self.warmup_steps, self.images, self.seconds = warmup_steps, 0, 0.0
        self.first_step_at: float | None = None  # time.time() at the end of the first optimizer step
        self.is_paused = False
        self._running_since: float | None = None

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._first_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, module: TrainingModule, batch: Batch, batch_idx: int) -> None:
        if self._running_since is not None:
            self.images += len(batch) * trainer.world_size

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        if self.first_step_at is None:
            now()
            self.first_step_at = time.time()
        if self._running_since is None and trainer.global_step - self._first_step >= self.warmup_steps:
            self._running_since = now()

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self._stop()

    def images_per_second(self) -> float | None:
        seconds = self.seconds + (time.perf_counter() - self._running_since if self._running_since else 0)
        return self.images / seconds if self.images else None

    def _stop(self) -> None:
        if self._running_since is not None:
            self.seconds += now() - self._running_since
            self._running_since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens in the block."""
        was_running, was_paused = self._running_since is not None, self.is_paused
        self._stop()
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = was_paused
            if was_running:
                self._running_since = now()


def now() -> float:
    """time.perf_counter() once the GPU, if there is one, has finished its work so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Curves(Callback):
    """Logs an optimizer step's mean loss and the moving average over all steps, every trainer.log_every_n_steps.

    train/loss is unweighted, like the validation loss. Where the loss is weighted by timestep, train/loss_weighted is
    what is minimized. Between two logged steps nothing is read from the device.
    """

    saved = ("history", "average", "_pending")

    def __init__(self, smoothing: FractionBelow1 = 0.98):
        self.smoothing = smoothing
        self.history: list[list[float]] = []  # [step, loss, moving average]
        self.average: float | None = None  # the moving average so far
        self._window: torch.Tensor | None = None  # [2], the sum over the current optimizer step, see _pending
        self._pending: list[torch.Tensor] = []  # [2] for each step not yet read: unweighted, weighted

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        if trainer.global_step:
            hide_after(trainer, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, outputs, *args) -> None:
        part = torch.stack([outputs["unweighted"], outputs["weighted"]])
        self._window = part if self._window is None else self._window + part
        super().on_train_batch_end(trainer, module)

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        assert self._window is not None  # a step has a micro-batch at least
        self._pending.append(self._window)
        self._window = None
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.global_step == 1:
            self.on_train_end(trainer, module)

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        """Read and log what is pending."""
        if not self._pending:
            return
        step = trainer.global_step
        losses, weighted = torch.stack([loss.to(module.device) for loss in self._pending]).T.tolist()
        self._pending = []
        for at, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):  # its update was skipped
                continue
            keep = ema_decay(at, self.smoothing)
            self.average = loss if self.average is None else self.average + (1 - keep) * (loss - self.average)
        if self.average is None:
            return
        self.history.append([step, losses[-1], self.average])
        values = {
            "train/loss": losses[-1],
            "train/loss_smoothed": self.average,
            "train/lr": module.learning_rate,
            "train/grad_norm": module.grad_norm.item() if module.grad_norm is not None else float("nan"),
        }
        if not isinstance(module.denoiser.weighting, Uniform):
            values["train/loss_weighted"] = weighted[-1]
        if speed := find(trainer, Clock).images_per_second():
            values["train/images_per_second"] = speed
        log_metrics(trainer, values, step)


class ProgressBar(Callback):
    """Shows a bar in a terminal and plain lines elsewhere: step, loss, images per second, time left."""

    def __init__(self, lines: NotNegative = 10):
        self.lines, self._open = lines, ExitStack()

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        steps, self._shown = trainer.estimated_stepping_batches, trainer.global_step
        self._total = None if steps in (-1, float("inf")) else int(steps)
        every = LONGEST_SILENCE if self.lines else float("inf")
        self._stage = self._open.enter_context(stage("training", self._total, trainer.global_step, every))

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        step, curves, speed = trainer.global_step, find(trainer, Curves), find(trainer, Clock).images_per_second()
        logged = curves.history[-1][0] if curves.history else 0
        at_step = "" if logged == step else f" (step {logged})"  # the loss is not read from the device at every step
        figures = (
            None if curves.average is None else f"loss {curves.average:.4f}{at_step}",
            None if speed is None else f"{speed:.1f} images/s",
        )
        self._stage.figures = "  ".join(filter(None, figures))
        self._stage.advance(1)
        due = self._total and step * self.lines // self._total > self._shown * self.lines // self._total
        if due and not console.is_terminal:
            self._shown = step
            self._stage.line()

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self._open.close()

    def on_exception(self, trainer: Trainer, module: TrainingModule, exception: BaseException) -> None:
        self._open.close()
