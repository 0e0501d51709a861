"""Micro-batches in parts that fit in memory: the one place that handles running out of memory in training."""

from dataclasses import dataclass, field

import torch
from lightning import LightningModule

from chrysalis.data.batch import Batch
from chrysalis.denoiser import Denoiser
from chrysalis.system import memory
from chrysalis.system.compiling import compiled_only_if
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import warn

MEMORY_ADVICE = "use a smaller data.image_size or model, model.gradient_checkpointing=true or optimizer=adamw8bit."


@dataclass
class MicroBatch:
    """A batch with the timesteps and unweighted losses of each of its parts, [B] each.

    loss: scalar, what the batch adds to the weighted mean over its accumulation window.
    """

    batch: Batch
    t: list[torch.Tensor] = field(default_factory=list)
    per_sample: list[torch.Tensor] = field(default_factory=list)
    loss: torch.Tensor = field(default_factory=lambda: torch.zeros(()))


class MicroBatching:
    """Runs the micro-batches of an optimizer step, split into more parts after running out of memory.

    The optimizer sees the same images whatever the number of parts; only the rounding of the sum differs.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.parts = denoiser, 1
        self.window: list[MicroBatch] = []

    def run(self, module: LightningModule, batch: Batch) -> MicroBatch:
        """Run the forward pass of a micro-batch and, on a single process, the backward pass too.

        A single process holds the only reference to the graph: when a pass fails, its memory is free again, and the
        window so far can be repeated in smaller parts. With several processes Lightning's own backward pass averages
        the gradients, and nothing can be repeated.
        """
        self.window.append(micro_batch := MicroBatch(batch))
        if module.trainer.world_size > 1:
            micro_batch.loss = self._loss(module, micro_batch, batch)
        elif not self._try_to_run(module, [micro_batch]):
            self._repeat_in_smaller_parts(module)
        return micro_batch

    def _loss(self, module: LightningModule, micro_batch: MicroBatch, part: Batch) -> torch.Tensor:
        """Return what a part adds to the weighted mean over its window; record its timesteps and unweighted losses."""
        full = module.trainer.datamodule.batch_size  # pyrefly: ignore[missing-attribute] - Lightning sets it without declaring it
        with compiled_only_if(len(part) * self.parts == full):
            loss = self.denoiser.loss(part)
        micro_batch.t.append(loss.t)
        micro_batch.per_sample.append(loss.per_sample.detach())
        return loss.weighted.sum() / part.window

    def _run_in_parts(self, module: LightningModule, micro_batch: MicroBatch) -> None:
        """Run both passes, part by part; the sum of the losses has nothing left to differentiate."""
        micro_batch.t.clear()
        micro_batch.per_sample.clear()
        precision = module.trainer.precision_plugin
        scaler = getattr(precision, "scaler", None)
        total = torch.zeros((), device=module.device)
        for part in micro_batch.batch.parts(self.parts):
            with precision.forward_context():
                loss = self._loss(module, micro_batch, part)
            with torch.autocast(module.device.type, enabled=False):
                (loss if scaler is None else scaler.scale(loss)).backward()
            total += loss.detach()
        micro_batch.loss = total.requires_grad_()

    def _try_to_run(self, module: LightningModule, window: list[MicroBatch]) -> bool:
        """Run both passes of each micro-batch; return whether they fit in memory.

        The caller repeats them, outside of `except`: the exception holds the failed graph.
        """
        try:
            for micro_batch in window:
                self._run_in_parts(module, micro_batch)
        except RuntimeError as error:
            if not memory.ran_out(error):
                raise
            return False
        return True

    def _repeat_in_smaller_parts(self, module: LightningModule) -> None:
        """Repeat the window so far in parts that fit, and keep their number from here on."""
        while self.parts < max(len(micro_batch.batch) for micro_batch in self.window):
            self.parts *= 2
            module.zero_grad()
            memory.release(module.device)
            if self._try_to_run(module, self.window):
                return warn(
                    f"step {module.trainer.global_step + 1}: out of memory. From here on each micro-batch is split "
                    f"into {self.parts} parts; the optimizer sees the same images."
                )
        raise UserError(f"A single image at a time does not fit in memory: {MEMORY_ADVICE}")
