"""The weights as they were before the first step, kept until the base model has been measured and drawn with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.training.callbacks.clock import of
from chrysalis.training.callbacks.ema import EMA


class BaseModel(Callback):
    """Lets the base model be looked at after the first optimizer step instead of before it.

    So the first step, which shows whether a run fits into memory, comes within seconds even where drawing takes
    minutes. The copy lies in the host's memory and is dropped when the second step begins. It is made before a
    checkpoint is loaded, because a run may have been stopped just after its first step.
    """

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.weights = {name: p.detach().to("cpu", copy=True) for name, p in module.trainable()}

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch, batch_index) -> None:
        if trainer.global_step and self.weights:
            self.weights = {}

    @contextmanager
    def applied(self, trainer: Trainer, module: LightningModule) -> Iterator[None]:
        """Inside, the module is the base model."""
        with of(trainer, EMA).applied(module, self.weights):
            yield
