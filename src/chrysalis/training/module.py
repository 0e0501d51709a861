"""The denoiser that is trained, and its LightningModule: one training step and its optimizer.

The loss is in denoiser.py, the handling of out-of-memory errors in out_of_memory.py.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer

from chrysalis.conditions.kinds import build_conditioner
from chrysalis.data.batch import Batch
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import Objective
from chrysalis.models.freezing import freeze
from chrysalis.models.lora import LoRA
from chrysalis.models.model import Model
from chrysalis.training.out_of_memory import MicroBatching


def build_denoiser(
    model: Model, data: ImageDataModule, objective: Objective, kinds: Mapping[str, Any], adapter: LoRA | None, **loss
) -> Denoiser:
    """Turn a model into a denoiser of the data, in place: add conditioner and LoRA, freeze weights, set the objective.

    It sets the data up, and numbers their labels as in the model. kinds: the conditions, by name. adapter: None to
    train the weights themselves. loss: more arguments of Denoiser. Raises UserError if the data lack what a condition
    needs, or the model and the conditions do not fit together.
    """
    data.codec = model.family
    data.setup()
    model.conditioner = build_conditioner(model.unet, model.conditioner, kinds, data)
    if adapter is not None:
        adapter.inject(model.unet)
    unet: Any = model.unet  # not UNet2DModel: diffusers declares a placeholder class of that name too
    freeze(unet, model.conditioner, model.train)
    model.register_objective(objective)
    return Denoiser(unet, model.scheduler, objective, model.conditioner, codec=model.family, **loss)


class TrainingModule(LightningModule):
    """The LightningModule that trains a denoiser, from pretrained weights or from scratch.

    Args:
        denoiser: its trainable parameters are optimized.
        optimizer: parameters or groups of them -> Optimizer.
        lr_schedule: (optimizer, total_steps) -> LRScheduler.
        lr_multiplier: learning-rate multiplier for the new, zero-initialized weights of a condition.
    """

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, optimizer: Callable, lr_schedule: Callable, lr_multiplier: float = 1.0):
        super().__init__()
        self.denoiser, self.lr_multiplier = denoiser, lr_multiplier
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        # a trial, so that a bad value is refused before a run folder is created
        trial = optimizer([torch.nn.Parameter(torch.zeros(1))])
        lr_schedule(trial, total_steps=1)
        self.optimizer_bytes_per_weight: float = getattr(trial, "bytes_per_weight", 8.0)
        self.microbatching = MicroBatching(denoiser)
        self.grad_norm: torch.Tensor | None = None  # at the last optimizer step, before clipping
        self.learning_rate = 0.0  # at the last optimizer step

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """(name, parameter) of all that is trained."""
        return [(name, p) for name, p in self.denoiser.named_parameters() if p.requires_grad]

    def on_fit_start(self) -> None:
        self.train()  # from_pretrained returns eval mode, and Lightning leaves modes as they are

    def on_train_start(self) -> None:
        """Give a resumed optimizer's state the memory layout of the weights, which may differ from the saved one."""
        if self.trainer.world_size > 1:
            self.microbatching.parts = 1  # several processes cannot repeat a step in parts, and each has fewer images
        for p, state in self.trainer.optimizers[0].state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == p.shape and value.stride() != p.stride():
                    state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed Dropout layers by (seed, micro-batch, process), so that a resumed run continues exactly."""
        micro_batch = self.trainer.fit_loop.epoch_loop.total_batch_idx  # its number in the whole run
        seed = self.trainer.datamodule.seed  # pyrefly: ignore[missing-attribute] - Lightning sets it without declaring it
        key = seeds.key(seed, "dropout", micro_batch, self.global_rank)
        # torch.manual_seed also queues a seed for GPUs, with a formatted stack trace, which is slow where there is none
        (torch.default_generator if self.device.type == "cpu" else torch).manual_seed(key)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the micro-batch's part of the mean loss over its window, the micro-batches of one optimizer step.

        In a short last window every image still weighs 1 / (number of images in the window).
        """
        micro_batch, processes = self.microbatching.run(self, batch), self.trainer.world_size
        # Lightning divides by the micro-batches of a window, DDP by the processes
        loss = micro_batch.loss * (self.trainer.accumulate_grad_batches * processes)
        unweighted = torch.cat(micro_batch.per_sample).sum() / batch.window * processes
        return {"loss": loss, "unweighted": unweighted, "weighted": micro_batch.loss.detach() * processes}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip, keep the norm and the learning rate for the log, and let callbacks look at the gradients."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # a fused optimizer would otherwise unscale within its step, after clipping
        self.learning_rate = optimizer.param_groups[0]["lr"]
        params = [p for group in optimizer.param_groups for p in group["params"]]
        self.grad_norm = norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(params, gradient_clip_val)
        # what clip_grad_norm_ does, without multiplying by 1 where that is known without waiting for a GPU
        elif gradient_clip_val and (norm.device.type != "cpu" or norm + 1e-6 > gradient_clip_val):
            torch.nn.utils.clip_grads_with_norm_(params, gradient_clip_val, norm)
        for callback in self.trainer.callbacks:  # pyrefly: ignore[missing-attribute] - Lightning sets it without declaring it
            if hasattr(callback, "on_gradients_measured"):
                callback.on_gradients_measured(self.trainer, self, optimizer)

    def optimizer_step(self, *args, **kwargs) -> None:
        """Step, and free the gradients at once: kept through the next forward pass, they cost memory and time."""
        super().optimizer_step(*args, **kwargs)
        self.trainer.optimizers[0].zero_grad()
        self.microbatching.window.clear()

    def optimizer_zero_grad(self, *args, **kwargs) -> None:
        """Do nothing: Lightning calls this after training_step, which may have run the backward pass already."""

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["parts"] = self.microbatching.parts

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.microbatching.parts = checkpoint["parts"]

    def configure_optimizers(self) -> dict:  # pyrefly: ignore[bad-override] - Lightning's type is a union of all it takes
        existing = [p for name, p in self.trainable() if not name.startswith("conditioner.")]
        new = [p for name, p in self.trainable() if name.startswith("conditioner.")]
        optimizer = self.make_optimizer([{"params": group} for group in (existing, new) if group])
        if new:
            optimizer.param_groups[-1]["lr"] *= self.lr_multiplier
        schedule = self.make_lr_schedule(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        # frequency 1: Lightning counts it in batches, and skips those that do not step
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1}}


@contextmanager
def eval_mode(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Run the block in eval mode and in the run's precision, without gradients and without compiled code.

    Compiled graphs are for the training shape: another batch size would cost another compilation.
    """
    module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        module.train()
