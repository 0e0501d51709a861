"""Held-out loss on fixed triples, for the raw and the averaged weights, against the untouched base model."""

import math

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.callbacks.clock import of, paused
from chrysalis.callbacks.ema import EMA
from chrysalis.errors import UserError, require_whole
from chrysalis.evaluating import evaluating
from chrysalis.metrics.timesteps import fixed_timesteps, held_out_loss
from chrysalis.terminal import say


class HeldOut(Callback):
    """Measures at step 0 (the base), every `every_n_steps` optimizer steps, and at the end.

    n_images pictures x bins timesteps, the same (image, t, noise) always, so that differences are the model's.
    """

    def __init__(self, every_n_steps: int = 100, n_images: int = 32, bins: int = 8, seed: int = 0):
        for name, value in (("every_n_steps", every_n_steps), ("n_images", n_images), ("bins", bins)):
            require_whole(f"callbacks.held_out.{name}", value)
        self.every_n_steps, self.n_images, self.bins, self.seed = every_n_steps, n_images, bins, seed
        self.base: torch.Tensor | None = None  # [N, bins]
        self.history: list[list[float]] = []  # [step, raw, ema]
        self.best_step, self.best = 0, float("inf")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        images, contents = trainer.datamodule.held_out(self.n_images)
        self.images, self.contents = torch.from_numpy(images), contents.tolist()
        if self.base is None:
            self.base = self._measure(trainer, module)
            mean = self.base.mean().item()
            self.history.append([0, mean, mean])
            self._log(trainer, 0, self.base, self.base)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step > self.history[-1][0]:
            self.measure(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step > self.history[-1][0]:
            self.measure(trainer, module)

    def measure(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        raw = self._measure(trainer, module)
        with of(trainer, EMA).applied(module):
            averaged = self._measure(trainer, module)
        self.history.append([step, raw.mean().item(), averaged.mean().item()])
        if not all(math.isfinite(value) for value in self.history[-1]):
            raise UserError(
                f"The held-out loss is not a number at step {step}: training diverged. Use a lower optimizer.lr, or "
                "trainer.gradient_clip_val=1.0."
            )
        if self.history[-1][2] < self.best:
            self.best_step, self.best = step, self.history[-1][2]
        self._log(trainer, step, raw, averaged)
        base = self.base.mean().item()
        say(f"step {step}: held-out loss {self.history[-1][2]:.5f} (raw {self.history[-1][1]:.5f}), base {base:.5f}")

    def _measure(self, trainer: Trainer, module: LightningModule) -> torch.Tensor:
        with paused(trainer), evaluating(trainer, module):
            return held_out_loss(module.denoiser, self.images, self.contents, self.bins, self.seed)

    def _log(self, trainer: Trainer, step: int, raw: torch.Tensor, averaged: torch.Tensor) -> None:
        if trainer.logger is None:
            return
        values = {
            "held_out/raw": raw.mean().item(),
            "held_out/ema": averaged.mean().item(),
            "held_out/ema_minus_base": (averaged - self.base).mean().item(),
            "held_out/ema_relative_to_base": (averaged.mean() / self.base.mean()).item(),
        }
        for t, ours, base in zip(
            fixed_timesteps(len(trainer.lightning_module.denoiser.noise), self.bins).tolist(),
            averaged.mean(dim=0).tolist(),
            self.base.mean(dim=0).tolist(),
            strict=True,
        ):
            values[f"held_out_by_timestep/t{t:03d}"] = ours
            values[f"held_out_by_timestep_relative_to_base/t{t:03d}"] = ours / base
        trainer.logger.log_metrics(values, step=step)

    def state_dict(self) -> dict:
        return {"base": self.base, "history": self.history, "best_step": self.best_step, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.base, self.history = state["base"], list(state["history"])
        self.best_step, self.best = state["best_step"], state["best"]
