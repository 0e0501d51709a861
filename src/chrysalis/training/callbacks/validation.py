"""Validation loss of the raw and the EMA weights, compared with the base model's.

A conditional model is also measured without its condition, and with the conditions of other images: a model that
ignores its condition has the same loss all three times.
"""

import math

import torch

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.evaluation.validation_loss import (
    PairedDifference,
    fixed_timesteps,
    loss_record,
    paired_difference,
    validation_loss,
)
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Positive, Seed, Timesteps
from chrysalis.system.terminal import say, stage
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.base_model import BaseModel
from chrysalis.training.callbacks.best_step import Best
from chrysalis.training.callbacks.clock import paused
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.eval_mode import eval_mode
from chrysalis.training.logger import log_metrics

NAMES = {"null": "without a condition", "shuffled": "with the conditions of other images"}


def validation_conditions(batch: Batch, conditioner: Conditioner | None) -> dict[str, dict | None]:
    """The conditions that validation images are measured under; empty for an unconditional model.

    "right": their own; "null": none; "shuffled": those of other images; with several kinds also "shuffled_KIND": only
    that kind is another image's.
    """
    if conditioner is None:
        return {}
    right = batches.from_batch(batch, conditioner)
    own = batch.columns.get("label", batch.columns.get("caption", range(len(batch))))
    own = [str(value.item() if isinstance(value, torch.Tensor) else value) for value in own]
    shuffled = batches.rows(right, batches.shuffled(own, batch.key.tolist()))
    conditions: dict[str, dict | None] = {"right": right, "null": None, "shuffled": shuffled}
    if len(right) > 1:
        conditions |= {f"shuffled_{name}": {**right, name: shuffled[name]} for name in right}
    return conditions


class Validation(Callback):
    """Measures the base model after the first step, then every so many optimizer steps and at the end.

    Every measurement has the same images, timesteps and noise, so that differences are the model's.
    """

    saved = ("history", "measured", "other_conditions", "image_hashes")

    def __init__(
        self, every_n_train_steps: Positive = 100, n_images: Positive = 32, timesteps: Timesteps = 8, seed: Seed = 0
    ):
        self.every_n_train_steps, self.n_images, self.timesteps, self.seed = (
            every_n_train_steps,
            n_images,
            timesteps,
            seed,
        )
        self.history: list[list[float]] = []  # [step, raw, ema]
        self.measured: dict[int, dict[str, torch.Tensor]] = {}  # {step: {"raw", "ema": float32 [N, timesteps]}}
        self.other_conditions: dict[str, list[list[float]]] = {}  # {"null", "shuffled", ...: [step, ema]}
        self.image_hashes: list[int] = []  # of the images that are measured

    @property
    def has_base(self) -> bool:
        """Whether the base model has been measured, which is step 0."""
        return 0 in self.measured

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        batch = trainer.datamodule.validation_batch(self.n_images)
        before, self.images, self.image_hashes = self.image_hashes, batch.image, batch.key.tolist()
        if self.has_base and before != self.image_hashes:
            self._reset(trainer)
        self.conditions = validation_conditions(batch, module.denoiser.conditioner)
        self._measure_if_due(trainer, module)  # the run may have been stopped before it could

    def _reset(self, trainer: Trainer) -> None:
        """Forget losses on other images, which do not compare."""
        self.history, self.measured, self.other_conditions = [], {}, {}
        for callback in trainer.callbacks:
            if hasattr(callback, "on_validation_images_changed"):
                callback.on_validation_images_changed()
        say("The validation images have changed: earlier validation losses and the best step are discarded.")

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        self._measure_if_due(trainer, module)

    def _measure_if_due(self, trainer: Trainer, module: FineTuning) -> None:
        step = trainer.global_step
        if step and not self.has_base:
            with find(trainer, BaseModel).applied(trainer, module):
                losses = self._measure(trainer, module, what="base model's loss")
            mean = losses.mean().item()
            self.history.append([0, mean, mean])
            self.measured[0] = {"raw": losses, "ema": losses}
            self._log(trainer, module, 0)
        if step and step % self.every_n_train_steps == 0 and step > self.history[-1][0]:
            self.measure(trainer, module)

    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None:
        if self.history and trainer.global_step > self.history[-1][0]:
            self.measure(trainer, module)

    def measure(self, trainer: Trainer, module: FineTuning) -> None:
        """Measure the weights of the current step; raises UserError if the loss is not finite."""
        # 1. The raw weights, then the EMA weights under every condition
        step = trainer.global_step
        raw = self._measure(trainer, module)
        with find(trainer, EMA).applied(module):
            ema = self._measure(trainer, module, what="validation loss, EMA")
            for name in self.conditions:
                if name != "right":
                    loss = self._measure(trainer, module, name).mean().item()
                    self.other_conditions.setdefault(name, []).append([step, loss])
        # 2. Refuse to continue a diverged run
        self.history.append([step, raw.mean().item(), ema.mean().item()])
        if not all(math.isfinite(value) for value in self.history[-1]):
            raise UserError(
                f"The validation loss is not a number at step {step}: training diverged. Use a lower optimizer.lr, or "
                "trainer.gradient_clip_val=1.0."
            )
        # 3. Keep, log, print
        self.measured[step] = {"raw": raw, "ema": ema}
        _, raw_mean, ema_mean = self.history[-1]
        find(trainer, Best).update("val_loss", step, ema_mean)
        self._log(trainer, module, step)
        say(
            f"step {step}: validation loss {ema_mean:.5f} (raw {raw_mean:.5f}), base {self.history[0][1]:.5f}, "
            f"difference {self.difference(step)}"
        )
        if others := self.losses_under_other_conditions(step):
            say(
                f"  validation loss {', '.join(f'{NAMES.get(name, name)} {loss:.5f}' for name, loss in others.items())}"
            )

    def _measure(
        self, trainer: Trainer, module: FineTuning, condition: str = "right", what: str = "validation loss"
    ) -> torch.Tensor:
        total = len(self.images) * self.timesteps
        with paused(trainer), eval_mode(trainer, module), stage(what, total) as progress:
            fixed = (self.images, self.image_hashes, self.timesteps, self.seed)
            cond = self.conditions.get(condition)
            return validation_loss(module.denoiser, *fixed, cond=cond, advance=progress.advance)

    def difference(self, step: int, to: int = 0, weights: str = "ema") -> PairedDifference:
        """The paired difference of the losses at two measured steps; step 0 is the base model."""
        return paired_difference(self.measured[step][weights], self.measured[to][weights])

    def record(self, trainer: Trainer, module: FineTuning, step: int) -> dict:
        """The EMA weights' losses at a measured step for results.json, see evaluation/validation_loss.py."""
        data = trainer.datamodule
        hashes = self.image_hashes or data.validation_batch(self.n_images).key.tolist()
        return loss_record(self.measured[step]["ema"], hashes, module.denoiser, data.size, self.seed)

    def losses_under_other_conditions(self, step: int) -> dict[str, float]:
        """{"null": loss, "shuffled": loss, ...} at a measured step; empty for an unconditional model."""
        return {name: loss for name, rows in self.other_conditions.items() for at, loss in rows if at == step}

    def _log(self, trainer: Trainer, module: FineTuning, step: int) -> None:
        raw, ema, base = self.measured[step]["raw"], self.measured[step]["ema"], self.measured[0]["ema"]
        values = {
            "val/loss_raw": raw.mean().item(),
            "val/loss": ema.mean().item(),
            "val/loss_minus_base": paired_difference(ema, base).mean,
            "val/loss_minus_base_error": paired_difference(ema, base).standard_error,
            "val/loss_raw_minus_base": paired_difference(raw, base).mean,
            "val/loss_raw_minus_base_error": paired_difference(raw, base).standard_error,
            "val/relative_to_base": (ema.mean() / base.mean()).item(),
        }
        timesteps = fixed_timesteps(len(module.denoiser.noise), self.timesteps).tolist()
        for t, ours, theirs in zip(timesteps, ema.mean(dim=0).tolist(), base.mean(dim=0).tolist(), strict=True):
            values[f"val_by_timestep/t{t:03d}"] = ours
            values[f"val_by_timestep_relative_to_base/t{t:03d}"] = ours / theirs
        for name, loss in self.losses_under_other_conditions(step).items():
            values[f"val_other_conditions/{name}"] = loss
            values[f"val_other_conditions/{name}_minus_right"] = loss - values["val/loss"]
        log_metrics(trainer, values, step)
