"""A callback that logs the norm of all weights after each optimizer step.

python train.py plugins=my_callback.py +callbacks.mine._target_=my_callback.WeightNorm
"""

import torch
from lightning import Callback, LightningModule, Trainer


class WeightNorm(Callback):
    def __init__(self, tag: str = "train/weight_norm"):
        self.tag = tag

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args) -> None:
        norm = torch.nn.utils.get_total_norm(module.parameters())
        for logger in trainer.loggers:
            logger.log_metrics({self.tag: float(norm)}, step=trainer.global_step)
