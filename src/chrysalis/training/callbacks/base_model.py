"""The weights from before the first step, kept until the base model has been measured and sampled from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.ema import EMA


class BaseModel(Callback):
    """Keeps the base model's trainable weights, so that it can be measured after the first optimizer step.

    The first step shows whether a run fits in memory; it comes within seconds even where sampling takes minutes. The
    weights are kept in host memory and dropped when the second step begins. They are saved before a checkpoint is
    loaded, because a run may have been stopped right after its first step.
    """

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def setup(self, trainer: Trainer, module: FineTuning, stage: str) -> None:
        self.weights = {name: p.detach().to("cpu", copy=True) for name, p in module.trainable()}

    def on_train_batch_start(self, trainer: Trainer, module: FineTuning, batch: Batch, batch_index: int) -> None:
        if trainer.global_step and self.weights:
            self.weights = {}

    @contextmanager
    def applied(self, trainer: Trainer, module: FineTuning) -> Iterator[None]:
        """Inside, the module has the base model's weights."""
        with find(trainer, EMA).applied(module, self.weights):
            yield
