"""The state of a module between training steps: eval mode, no gradients, the run's precision, not compiled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import LightningModule, Trainer


@contextmanager
def eval_mode(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Inside, the module is ready to be measured or sampled from.

    Compiled graphs are for the training shape: another batch size would cost another compilation.
    """
    module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        module.train()
