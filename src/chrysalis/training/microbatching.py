"""Micro-batches in parts that fit into memory: the one home of out-of-memory in training."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from chrysalis.data.batch import Batch
from chrysalis.system import memory
from chrysalis.system.compiling import compiled_only_if
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import warn

SMALLER = "use a smaller data.image_size or model, model.gradient_checkpointing=true or optimizer=adamw8bit."


@dataclass
class MicroBatch:
    """A batch with the timesteps and the losses of each of its parts, [B] each, and its share of the window's mean."""

    batch: Batch
    t: list[torch.Tensor] = field(default_factory=list)
    per_sample: list[torch.Tensor] = field(default_factory=list)
    share: torch.Tensor | None = None

    @property
    def unweighted_share(self) -> torch.Tensor:
        """The same of the loss as no weighting has it."""
        return torch.cat(self.per_sample).sum() / self.batch.window


class MicroBatching:
    """Runs micro-batches of the optimizer step that is being made, in more parts after running out of memory.

    The optimizer sees the same images whatever the number of parts; the sum is rounded differently.
    """

    def __init__(self):
        self.parts = 1
        self.window: list[MicroBatch] = []

    def run(self, module, batch: Batch) -> MicroBatch:
        """The forward pass of a micro-batch and, on a single process, the backward pass too.

        Alone, no one else holds the graph, so that memory is free again when a pass fails, and the window so far can be
        repeated in smaller parts. Among several processes Lightning's backward pass averages the gradients.
        """
        self.window.append(seen := MicroBatch(batch))
        if module.trainer.world_size > 1:
            with on_one_process(module.global_rank):
                seen.share = self._share(module, seen, batch)
            return seen
        try:
            self._in_parts(module, seen)
        except RuntimeError as error:
            require_out_of_memory(error)
        else:
            return seen
        self._repeat_in_smaller_parts(module)  # outside of `except`: its exception holds what failed
        return seen

    def _share(self, module, seen: MicroBatch, batch: Batch) -> torch.Tensor:
        """The loss of a micro-batch, or of a part of it, as its share of the mean over the window."""
        with compiled_only_if(len(batch) * self.parts == module.trainer.datamodule.batch_size):
            loss = module.denoiser.loss(batch)
        seen.t.append(loss.t)
        seen.per_sample.append(loss.per_sample.detach())
        return loss.weighted.sum() / batch.window

    def _in_parts(self, module, seen: MicroBatch) -> None:
        """Both passes of a micro-batch, part by part; its share has nothing left to differentiate."""
        seen.t.clear()
        seen.per_sample.clear()
        precision = module.trainer.precision_plugin
        scaler = getattr(precision, "scaler", None)
        total = torch.zeros((), device=module.device)
        for part in seen.batch.parts(self.parts):
            with precision.forward_context():
                share = self._share(module, seen, part)
            with torch.autocast(module.device.type, enabled=False):
                (share if scaler is None else scaler.scale(share)).backward()
            total += share.detach()
        seen.share = total.requires_grad_()

    def _repeat_in_smaller_parts(self, module) -> None:
        """The window so far again, in parts so small that they fit, now and from here on."""
        while self.parts < max(len(seen.batch) for seen in self.window):
            self.parts *= 2
            module.zero_grad()
            memory.release(module.device)
            try:
                for seen in self.window:
                    self._in_parts(module, seen)
            except RuntimeError as error:
                require_out_of_memory(error)
                continue
            return warn(
                f"step {module.trainer.global_step + 1}: out of memory. From here on each micro-batch is split into "
                f"{self.parts} parts; the optimizer sees the same images."
            )
        raise UserError(f"A single image at a time does not fit into memory: {SMALLER}")


def require_out_of_memory(error: Exception) -> None:
    """Re-raise unless the error is out-of-memory."""
    if not memory.ran_out(error):
        raise error


@contextmanager
def on_one_process(rank: int):
    """Inside, running out of memory is a sentence: among several processes no pass can be repeated."""
    try:
        yield
    except RuntimeError as error:
        require_out_of_memory(error)
        raise UserError(f"Out of memory on process {rank}: {SMALLER}") from None
