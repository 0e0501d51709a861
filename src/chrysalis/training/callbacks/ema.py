"""Exponential moving average of the trainable weights in float32, with a warmed-up decay."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from chrysalis.diffusion.mixing import ema_decay, lerp_
from chrysalis.system.ranges import FractionBelow1
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer


class EMA(Callback):
    """After optimizer step n: average += (1 - d_n) (weight - average), with d_n of diffusion.mixing.ema_decay."""

    def __init__(self, decay: FractionBelow1 = 0.999):
        self.decay, self.updates = decay, 0
        self.averages: dict[str, torch.Tensor] = {}
        self._weights: list[torch.Tensor] = []

    def on_fit_start(self, trainer: Trainer, module: FineTuning) -> None:
        loaded = self.averages
        self.averages = {
            name: loaded.get(name, p.detach()).to(p.device, torch.float32, copy=True) for name, p in module.trainable()
        }
        self._weights = [p.detach() for _, p in module.trainable()]

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        if trainer.global_step > self.updates:
            self.updates = trainer.global_step
            with torch.no_grad():
                lerp_(list(self.averages.values()), self._weights, 1 - ema_decay(self.updates, self.decay))

    @contextmanager
    def applied(self, module: FineTuning, averages: dict[str, torch.Tensor] | None = None) -> Iterator[None]:
        """Inside, the module has the EMA weights (or the given ones); afterwards its own again."""
        averages = averages or self.averages
        with torch.no_grad():
            own = {name: p.detach().clone() for name, p in module.trainable()}
            try:
                for name, p in module.trainable():
                    p.copy_(averages[name])
                yield
            finally:
                for name, p in module.trainable():
                    p.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": {name: a.cpu() for name, a in self.averages.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.averages = state["updates"], dict(state["averages"])
