"""Find a loss or gradient that is not finite before the update, on every process, and name its images."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown, written
from chrysalis.system.ranges import NotNegative
from chrysalis.system.terminal import warn
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.progress import Clock
from chrysalis.training.logger import log_metrics
from chrysalis.training.out_of_memory import MicroBatch


@dataclass
class Check:
    """An optimizer step whose check may still be computed on the device.

    finite: bool scalar. window: the micro-batches of the step. arrived: the event after which the copy of `finite` on
    the CPU can be read; None if there is nothing to wait for.
    """

    step: int
    finite: torch.Tensor
    window: list[MicroBatch]
    arrived: torch.cuda.Event | None = None


class NonFinite(Callback):
    """Stops the run, or skips the update, where a loss or gradient is not finite.

    When it stops, the images and weights that reproduce the step are saved in the run's nonfinite/.

    With a fused optimizer on a GPU nothing waits for the check, except under 16-mixed: the optimizer skips the update
    by itself (`found_inf`), and the check is read one step later. Otherwise it is read at once. Under 16-mixed,
    infinite gradients are how the gradient scaler finds its scale, and only the losses are checked.
    """

    saved = ("skipped_steps",)

    def __init__(self, run_dir: str, action: Literal["stop", "skip"] = "stop", max_skipped_steps: NotNegative = 10):
        self.folder, self.action, self.max_skipped_steps = Path(run_dir) / "nonfinite", action, max_skipped_steps
        self.skipped_steps: list[int] = []
        self._check: Check | None = None

    def on_gradients_measured(self, trainer: Trainer, module: TrainingModule, optimizer) -> None:
        """Check the gradients of a whole window before the update; the module calls this."""
        self.on_train_end(trainer, module)
        assert module.grad_norm is not None  # the module has just measured it
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        losses = [loss for micro_batch in module.microbatching.window for loss in micro_batch.per_sample]
        finite = torch.isfinite(torch.cat(losses)).all() if is_scaled else torch.isfinite(module.grad_norm)
        self._check = check = Check(trainer.global_step + 1, finite, list(module.microbatching.window))
        if finite.is_cuda and not is_scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()
            check.finite, check.arrived = finite.to("cpu", non_blocking=True), torch.cuda.Event()
            check.arrived.record()
            return
        if not finite.item():
            optimizer.zero_grad()  # an optimizer skips weights without a gradient
        self.on_train_end(trainer, module)

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        """Read the check of the last step, if it was not read yet, and stop or skip."""
        check, self._check = self._check, None
        if check is None:
            return
        if check.arrived is not None:  # before that, the host's tensor is uninitialized
            check.arrived.synchronize()
        if not check.finite.item():
            with find(trainer, Clock).paused():
                self._stop_or_skip(trainer, module, check)

    def _stop_or_skip(self, trainer: Trainer, module: TrainingModule, check: Check) -> None:
        rank, is_parallel = trainer.global_rank, trainer.world_size > 1
        where = f" (process {rank})" if is_parallel else ""
        text = f"step {check.step}{where}: {describe(check.window, trainer.datamodule.image_set.names, is_parallel)}"
        self.skipped_steps.append(check.step)
        count = len(self.skipped_steps)
        if self.action == "skip" and count <= self.max_skipped_steps:
            warn(f"{text} The update is skipped ({count} of at most {self.max_skipped_steps}).")
            log_metrics(trainer, {"train/skipped_updates": count}, check.step)
            return
        file = self.folder / f"step_{check.step:06d}{f'_process_{rank}' if rank else ''}.pt"
        batches = [asdict(micro_batch.batch.to("cpu")) for micro_batch in check.window]
        weights = {name: w.cpu() for name, w in module.denoiser.state_dict().items()}
        with written(file) as partial:
            torch.save({"step": check.step, "denoiser": weights, "batches": batches}, partial)
        skip = f"callbacks.nonfinite.max_skipped_steps={2 * count}" if self.action == "skip" else "on_nonfinite=skip"
        raise UserError(
            f"{text} Nothing was updated: if training diverged, lower optimizer.lr or use trainer.precision=32-true, "
            f"else skip the update with {skip}; {shown(file)} reproduces the step (docs/reliability.md)."
        )


def describe(window: list[MicroBatch], names: tuple[str, ...], is_parallel: bool) -> str:
    """Name the images and timesteps whose losses are not finite, or all where only the gradients are not."""
    rows = torch.cat([micro_batch.batch.row for micro_batch in window]).tolist()
    t = torch.cat([part.cpu() for micro_batch in window for part in micro_batch.t]).tolist()
    losses = torch.cat([part.cpu() for micro_batch in window for part in micro_batch.per_sample]).tolist()
    images = [f"{names[row]} at t={at}" for row, at in zip(rows, t, strict=True)]
    found = [image for image, loss in zip(images, losses, strict=True) if not math.isfinite(loss)]
    named = found or images
    listed = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
    if found:
        return f"the loss is not finite for {listed}."
    others = " here, but a loss of another process or the gradient" if is_parallel else ", but their gradient"
    return f"the losses are finite{others} is not: {listed}."
