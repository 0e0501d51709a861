"""Validation loss of the raw and the EMA weights, compared with the base model's.

A conditional model is also measured without its condition, and with the conditions of other images: a model that
ignores its condition has the same loss all three times.
"""

import torch

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.evaluation.validation_loss import PairedDifference, fixed_timesteps, paired_difference, validation_loss
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import From1To1000, Positive, Seed
from chrysalis.system.terminal import say, stage
from chrysalis.training.callbacks.base import Batch, Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.checkpoint import Best
from chrysalis.training.callbacks.ema import EMA, BaseModel, applied
from chrysalis.training.callbacks.progress import Clock
from chrysalis.training.logger import log_metrics
from chrysalis.training.module import eval_mode

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

    saved = ("measured", "image_hashes")

    def __init__(
        self, every_n_train_steps: Positive = 100, n_images: Positive = 32, timesteps: From1To1000 = 8, seed: Seed = 0
    ):
        self.every_n_train_steps, self.n_images = every_n_train_steps, n_images
        self.timesteps, self.seed = timesteps, seed
        # {step: {"raw", "ema", and the EMA weights under other conditions: float32 [N, timesteps]}}
        self.measured: dict[int, dict[str, torch.Tensor]] = {}
        self.image_hashes: list[int] = []  # those of the measured images

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        batch = trainer.datamodule.validation_batch(self.n_images)
        before, self.images, self.image_hashes = self.image_hashes, batch.image, batch.key.tolist()
        self.conditions = validation_conditions(batch, module.denoiser.conditioner)
        if self.measured and before != self.image_hashes:
            self.measured = {}
            for callback in trainer.callbacks:
                if hasattr(callback, "on_validation_images_changed"):
                    callback.on_validation_images_changed()
            say("The validation images have changed: earlier losses, and a best step chosen by them, are discarded.")
        if trainer.global_step:  # the run may have been stopped before it could measure
            self.on_step_end(trainer, module)

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        if not self.measured:
            with applied(module, find(trainer, BaseModel).weights):
                losses = self._measure(trainer, module, what="base model's loss")
            self.measured[0] = {"raw": losses, "ema": losses}
            self._log(trainer, module, 0)
        if trainer.global_step % self.every_n_train_steps == 0:
            self.measure(trainer, module)

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        if self.measured:
            self.measure(trainer, module)

    def measure(self, trainer: Trainer, module: TrainingModule) -> None:
        """Measure the weights of the current step, once; raises UserError if the loss is not finite."""
        if (step := trainer.global_step) in self.measured:
            return
        # 1. The raw weights, then the EMA weights under every condition
        losses = {"raw": self._measure(trainer, module)}
        with applied(module, find(trainer, EMA).ema_weights):
            losses["ema"] = self._measure(trainer, module, what="validation loss, EMA")
            for name in self.conditions:
                if name != "right":
                    losses[name] = self._measure(trainer, module, name)
        # 2. Refuse to continue a diverged run
        if not all(losses[weights].mean().isfinite() for weights in ("raw", "ema")):
            raise UserError(
                f"The validation loss is not finite at step {step}: training diverged. Use a lower optimizer.lr, or "
                "trainer.gradient_clip_val=1.0."
            )
        # 3. Keep, log, print
        self.measured[step] = losses
        find(trainer, Best).update("val_loss", step, self.mean(step))
        self._log(trainer, module, step)
        say(
            f"step {step}: validation loss {self.mean(step):.5f} (raw {self.mean(step, 'raw'):.5f}), base "
            f"{self.mean(0):.5f}, difference {self.difference(step)}"
        )
        if others := self.losses_under_other_conditions(step):
            listed = ", ".join(f"{NAMES.get(name, name)} {loss:.5f}" for name, loss in others.items())
            say(f"  validation loss {listed}")

    def _measure(
        self, trainer: Trainer, module: TrainingModule, condition: str = "right", what: str = "validation loss"
    ) -> torch.Tensor:
        total = len(self.images) * self.timesteps
        with find(trainer, Clock).paused(), eval_mode(trainer, module), stage(what, total) as progress:
            fixed = (self.images, self.image_hashes, self.timesteps, self.seed)
            cond = self.conditions.get(condition)
            return validation_loss(module.denoiser, *fixed, cond=cond, advance=progress.advance)

    def mean(self, step: int, weights: str = "ema") -> float:
        """The validation loss at a measured step; step 0 is the base model."""
        return self.measured[step][weights].mean().item()

    def difference(self, step: int, to: int = 0, weights: str = "ema") -> PairedDifference:
        """The paired difference of the losses at two measured steps."""
        return paired_difference(self.measured[step][weights], self.measured[to][weights])

    def losses_under_other_conditions(self, step: int) -> dict[str, float]:
        """{"null": loss, "shuffled": loss, ...} at a step; empty if not measured, or if the model is unconditional."""
        names = [name for name in self.measured.get(step, ()) if name not in ("raw", "ema")]
        return {name: self.mean(step, name) for name in names}

    def _log(self, trainer: Trainer, module: TrainingModule, step: int) -> None:
        ema, raw = self.difference(step), self.difference(step, weights="raw")
        values = {
            "val/loss_raw": self.mean(step, "raw"),
            "val/loss": self.mean(step),
            "val/loss_minus_base": ema.mean,
            "val/loss_minus_base_error": ema.standard_error,
            "val/loss_raw_minus_base": raw.mean,
            "val/loss_raw_minus_base_error": raw.standard_error,
            "val/relative_to_base": (self.measured[step]["ema"].mean() / self.measured[0]["ema"].mean()).item(),
        }
        timesteps = fixed_timesteps(len(module.denoiser.noise), self.timesteps).tolist()
        by_timestep = (self.measured[at]["ema"].mean(dim=0).tolist() for at in (step, 0))
        for t, loss, base_loss in zip(timesteps, *by_timestep, strict=True):
            values[f"val_by_timestep/t{t:03d}"] = loss
            values[f"val_by_timestep_relative_to_base/t{t:03d}"] = loss / base_loss
        for name, loss in self.losses_under_other_conditions(step).items():
            values[f"val_other_conditions/{name}"] = loss
            values[f"val_other_conditions/{name}_minus_right"] = loss - values["val/loss"]
        log_metrics(trainer, values, step)
