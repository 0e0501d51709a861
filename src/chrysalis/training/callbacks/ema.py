"""Weights other than those in training: their exponential moving average, and those of the base model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from chrysalis.diffusion.mixing import ema_decay, lerp_
from chrysalis.system.ranges import FractionBelow1
from chrysalis.training.callbacks.base import Batch, Callback, Trainer, TrainingModule


class EMA(Callback):
    """Keeps EMA weights in float32: after optimizer step n, ema += (1 - d_n) (weight - ema).

    d_n: the decay with warm-up of diffusion.mixing.ema_decay.
    """

    saved = ("ema_weights",)

    def __init__(self, decay: FractionBelow1 = 0.999):
        self.decay = decay
        self.ema_weights: dict[str, torch.Tensor] = {}
        self._weights: list[torch.Tensor] = []

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        loaded, weights = self.ema_weights, {name: p.detach() for name, p in module.trainable()}
        self._weights = list(weights.values())
        self.ema_weights = {
            name: loaded.get(name, w).to(w.device, torch.float32, copy=True) for name, w in weights.items()
        }

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        with torch.no_grad():
            lerp_(list(self.ema_weights.values()), self._weights, 1 - ema_decay(trainer.global_step, self.decay))


class BaseModel(Callback):
    """Keeps the base model's trainable weights, so that it can be measured after the first optimizer step.

    The first step shows whether a run fits in memory; it comes within seconds even where sampling takes minutes. The
    weights are kept in host memory and dropped when the second step begins. They are copied before a checkpoint is
    loaded, because a run may have been stopped right after its first step.
    """

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def setup(self, trainer: Trainer, module: TrainingModule, stage: str) -> None:
        self.weights = {name: p.detach().to("cpu", copy=True) for name, p in module.trainable()}

    def on_train_batch_start(self, trainer: Trainer, module: TrainingModule, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step:
            self.weights = {}


@contextmanager
def applied(module: TrainingModule, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Copy `weights` into the module's trainable weights for a block, and restore its own afterwards."""
    with torch.no_grad():
        own = {name: p.detach().clone() for name, p in module.trainable()}
        try:
            for name, p in module.trainable():
                p.copy_(weights[name])
            yield
        finally:
            for name, p in module.trainable():
                p.copy_(own[name])
