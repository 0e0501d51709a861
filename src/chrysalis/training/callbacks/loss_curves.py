"""Training loss, learning rate, gradient norm and images per second, logged every few optimizer steps."""

import math

import torch

from chrysalis.diffusion.mixing import ema_decay
from chrysalis.diffusion.weighting import Uniform
from chrysalis.system.ranges import FractionBelow1
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.clock import Clock
from chrysalis.training.logger import hide_after, log_metrics


class Curves(Callback):
    """Logs the mean loss of each optimizer step and its moving average, every trainer.log_every_n_steps.

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
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        self._last_step = trainer.global_step
        if trainer.global_step:
            hide_after(trainer, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        part = torch.stack([outputs["unweighted"], outputs["weighted"]])
        self._window = part if self._window is None else self._window + part
        if trainer.global_step == self._last_step:
            return
        self._last_step = step = trainer.global_step
        self._pending.append(self._window)
        self._window = None
        if step % trainer.log_every_n_steps == 0 or step == 1:  # pyrefly: ignore[missing-attribute] - Lightning sets it without declaring it
            self._log(trainer, module, step)

    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None:
        if self._pending:
            self._log(trainer, module, trainer.global_step)

    def _log(self, trainer: Trainer, module: FineTuning, step: int) -> None:
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
