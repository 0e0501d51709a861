"""The LightningModule: steps and optimizers, no mathematics."""

from collections.abc import Callable

import torch
from lightning import LightningModule

from chrysalis.batch import Batch
from chrysalis.compiling import compiled_only_if
from chrysalis.denoiser import Denoiser
from chrysalis.errors import UserError
from chrysalis.freezing import is_new


class FineTuning(LightningModule):
    """optimizer: params -> Optimizer. lr_schedule: (optimizer, total_steps) -> LRScheduler.

    new_lr: how many times the learning rate is that of the weights which a condition brought: they begin at zero.
    """

    def __init__(self, denoiser: Denoiser, optimizer: Callable, lr_schedule: Callable, new_lr: float = 1.0):
        super().__init__()
        if not isinstance(new_lr, int | float) or not 0 < new_lr < float("inf"):
            raise UserError(f"condition.new_lr={new_lr} must be a positive number.")
        self.new_lr = new_lr
        self.denoiser = denoiser
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        # a trial, so that a bad value is refused before a run folder is begun
        trial = optimizer([torch.nn.Parameter(torch.zeros(1))])
        lr_schedule(trial, total_steps=1)
        self.optimizer_bytes = getattr(trial, "bytes_per_weight", 8.0)  # of its state
        self.grad_norm: torch.Tensor | None = None  # of the last optimizer step, before clipping
        self.learning_rate = 0.0  # of the last optimizer step

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.denoiser.named_parameters() if p.requires_grad]

    def on_fit_start(self) -> None:
        self.train()  # from_pretrained returns eval mode, and Lightning leaves modes as they are

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, torch.Tensor]:
        """The batch's share of its window's mean, so that a short last window is averaged over what it holds.

        Lightning divides by accumulate_grad_batches and averages over processes; both are undone here.
        """
        with compiled_only_if(len(batch) == self.trainer.datamodule.batch_size):
            loss = self.denoiser.loss(batch)
        share = loss.weighted.sum() / batch.window
        undo = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return {"loss": share * undo, "share": share.detach() * self.trainer.world_size}

    def optimizer_step(self, *given, **named) -> None:
        """Gradients go with the step: Lightning keeps them through the next forward pass, which then runs slower."""
        super().optimizer_step(*given, **named)
        self.optimizers(use_pl_optimizer=False).zero_grad()

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip as trainer.gradient_clip_* say (null or 0: not at all); keep the norm from before for the log."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # under float16 a fused optimizer would do it in its step, after clipping
        self.learning_rate = optimizer.param_groups[0]["lr"]
        by_norm = gradient_clip_val and gradient_clip_algorithm != "value"
        self.grad_norm = torch.nn.utils.clip_grad_norm_(params, gradient_clip_val if by_norm else float("inf"))
        if gradient_clip_val and not by_norm:
            torch.nn.utils.clip_grad_value_(params, gradient_clip_val)

    def configure_optimizers(self) -> dict:
        own = [p for name, p in self.trainable() if not is_new(name)]
        new = [p for name, p in self.trainable() if is_new(name)]
        optimizer = self.make_optimizer([{"params": group} for group in (own, new) if group])
        if new:
            optimizer.param_groups[-1]["lr"] *= self.new_lr
        schedule = self.make_lr_schedule(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        # frequency 1: Lightning counts it in batches, and skips those that do not step
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1}}
