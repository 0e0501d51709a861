"""Validation loss on fixed triples, for the raw and the EMA weights, against the untouched base model.

Of a conditional model also when it is told nothing, and when it is told what belongs to another image: a model that
does not listen has the same loss all three times.
"""

import math

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data.batch import Batch
from chrysalis.evaluation.validation_loss import (
    PairedDifference,
    fixed_timesteps,
    loss_record,
    paired_difference,
    validation_loss,
)
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.terminal import say, stage
from chrysalis.training.callbacks.base_model import BaseModel
from chrysalis.training.callbacks.best_step import Best
from chrysalis.training.callbacks.clock import of, paused
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.eval_mode import evaluating

WORDS = {"null": "nothing", "shuffled": "of another image"}


def conditions(batch: Batch, conditioner: Conditioner | None) -> dict[str, dict | None]:
    """What a model is told of the validation images: what is right, nothing, or what is right for others of them."""
    if conditioner is None:
        return {}
    right = batches.of_batch(batch, conditioner)
    own = [
        str(batch.label[i].item() if batch.label is not None else (i if batch.caption is None else batch.caption[i]))
        for i in range(len(batch))
    ]
    shuffled = batches.rows(right, batches.shuffled(own, batch.key.tolist()))
    told = {"right": right, "null": None, "shuffled": shuffled}
    if len(right) > 1:
        told |= {f"shuffled_{name}": {**right, name: shuffled[name]} for name in right}
    return told


class Validation(Callback):
    """Measures the base model after the first step, then every `every_n_train_steps` optimizer steps and at the end.

    n_images images x bins timesteps, the same (image, t, noise) always, so that differences are the model's.
    """

    def __init__(self, every_n_train_steps: int = 100, n_images: int = 32, bins: int = 8, seed: int = 0):
        for name, value in (("every_n_train_steps", every_n_train_steps), ("n_images", n_images), ("bins", bins)):
            require_whole(f"callbacks.validation.{name}", value)
        self.every_n_train_steps, self.n_images, self.bins, self.seed = every_n_train_steps, n_images, bins, seed
        self.base: torch.Tensor | None = None  # [N, bins]
        self.history: list[list[float]] = []  # [step, raw, ema]
        self.measured: dict[int, dict[str, torch.Tensor]] = {}  # of each step in history: raw and ema [N, bins]
        self.told: dict[str, list[list[float]]] = {}  # "null", "shuffled", ...: [step, ema]
        self.contents: list[int] | None = None  # the hash of each image that is measured on

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        batch = trainer.datamodule.validation_batch(self.n_images)
        before, self.images, self.contents = self.contents, batch.image, batch.key.tolist()
        if self.base is not None and (len(self.base) != len(self.contents) or before not in (None, self.contents)):
            self._begin_anew(trainer)
        self.conds = conditions(batch, module.denoiser.conditioner)
        self._measure_if_due(trainer, module)  # where a run was stopped before it could

    def _begin_anew(self, trainer: Trainer) -> None:
        """Forget losses of other images, which do not compare: the base model is measured on those of now."""
        self.base, self.history, self.measured, self.told = None, [], {}, {}
        for callback in trainer.callbacks:
            if hasattr(callback, "on_validation_images_changed"):
                callback.on_validation_images_changed()
        say("The validation images have changed: validation losses, and the best step, are of those of now alone.")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self._measure_if_due(trainer, module)

    def _measure_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        if step and self.base is None:
            with of(trainer, BaseModel).applied(trainer, module):
                self.base = self._measure(trainer, module, what="base model's loss")
            mean = self.base.mean().item()
            self.history.append([0, mean, mean])
            self.measured[0] = {"raw": self.base, "ema": self.base}
            self._log(trainer, 0, self.base, self.base)
        if step and step % self.every_n_train_steps == 0 and step > self.history[-1][0]:
            self.measure(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.history and trainer.global_step > self.history[-1][0]:
            self.measure(trainer, module)

    def measure(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        raw = self._measure(trainer, module)
        with of(trainer, EMA).applied(module):
            averaged = self._measure(trainer, module, what="validation loss, EMA")
            for name in self.conds:
                if name != "right":
                    loss = self._measure(trainer, module, name).mean().item()
                    self.told.setdefault(name, []).append([step, loss])
        self.history.append([step, raw.mean().item(), averaged.mean().item()])
        if not all(math.isfinite(value) for value in self.history[-1]):
            raise UserError(
                f"The validation loss is not a number at step {step}: training diverged. Use a lower optimizer.lr, or "
                "trainer.gradient_clip_val=1.0."
            )
        self.measured[step] = {"raw": raw, "ema": averaged}
        of(trainer, Best).hear("val_loss", step, self.history[-1][2])
        self._log(trainer, step, raw, averaged)
        base, change = self.base.mean().item(), self.difference(step)
        say(
            f"step {step}: validation loss {self.history[-1][2]:.5f} (raw {self.history[-1][1]:.5f}), base {base:.5f}, "
            f"difference {change}"
        )
        if self.told:
            others = (f"{WORDS.get(name, name)} {values[-1][1]:.5f}" for name, values in self.told.items())
            say(f"  told {', '.join(others)}")

    def _measure(
        self, trainer: Trainer, module: LightningModule, told: str = "right", what: str = "validation loss"
    ) -> torch.Tensor:
        total = len(self.images) * self.bins
        with paused(trainer), evaluating(trainer, module), stage(what, total) as at:
            fixed = (self.images, self.contents, self.bins, self.seed)
            return validation_loss(module.denoiser, *fixed, cond=self.conds.get(told), advance=at.advance)

    def difference(self, step: int, to: int = 0, weights: str = "ema") -> PairedDifference:
        """Of the losses at one measured step and another, image by image; the base model's are those of step 0."""
        return paired_difference(self.measured[step][weights], self.measured[to][weights])

    def record(self, trainer: Trainer, step: int) -> dict:
        """Of the EMA weights at a measured step, see evaluation/validation_loss.py."""
        data, denoiser = trainer.datamodule, trainer.lightning_module.denoiser
        contents = self.contents or data.validation_batch(self.n_images).key.tolist()
        return loss_record(self.measured[step]["ema"], contents, denoiser, data.size, self.seed)

    def told_at(self, step: int) -> dict[str, float]:
        """{"null": loss, "shuffled": loss, ...} that was measured at a step; empty for an unconditional model."""
        return {name: value for name, values in self.told.items() for at, value in values if at == step}

    def _log(self, trainer: Trainer, step: int, raw: torch.Tensor, averaged: torch.Tensor) -> None:
        if trainer.logger is None:
            return
        values = {
            "val/loss_raw": raw.mean().item(),
            "val/loss": averaged.mean().item(),
            "val/loss_minus_base": paired_difference(averaged, self.base).mean,
            "val/loss_minus_base_error": paired_difference(averaged, self.base).standard_error,
            "val/loss_raw_minus_base": paired_difference(raw, self.base).mean,
            "val/loss_raw_minus_base_error": paired_difference(raw, self.base).standard_error,
            "val/relative_to_base": (averaged.mean() / self.base.mean()).item(),
        }
        for t, ours, base in zip(
            fixed_timesteps(len(trainer.lightning_module.denoiser.noise), self.bins).tolist(),
            averaged.mean(dim=0).tolist(),
            self.base.mean(dim=0).tolist(),
            strict=True,
        ):
            values[f"val_by_timestep/t{t:03d}"] = ours
            values[f"val_by_timestep_relative_to_base/t{t:03d}"] = ours / base
        for name, loss in self.told_at(step).items():
            values[f"val_other_conditions/{name}"] = loss
            values[f"val_other_conditions/{name}_minus_right"] = loss - values["val/loss"]
        trainer.logger.log_metrics(values, step=step)

    def state_dict(self) -> dict:
        measured = {"measured": self.measured, "contents": self.contents}
        return {"base": self.base, "history": self.history, "told": self.told, **measured}

    def load_state_dict(self, state: dict) -> None:
        self.base, self.history, self.told = state["base"], list(state["history"]), dict(state.get("told", {}))
        self.measured, self.contents = dict(state["measured"]), state.get("contents")
