"""The way a module is looked at between training steps: eval mode, no gradients, the run's precision, no compiling."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import LightningModule, Trainer


@contextmanager
def evaluating(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Compiled graphs belong to the training shape: another batch size would cost another compilation."""
    module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        module.train()
