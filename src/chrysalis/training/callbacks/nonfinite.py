"""A loss or gradient that is not a number is caught before the update, on every process, and named."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.files import shown, written
from chrysalis.system.terminal import warn
from chrysalis.training.callbacks.clock import paused
from chrysalis.training.microbatching import MicroBatch


@dataclass
class Measured:
    """An optimizer step whose gradient norm is on its way from the device. arrived: when it is there, None for now."""

    step: int
    finite: torch.Tensor  # bool
    window: list[MicroBatch]
    arrived: torch.cuda.Event | None = None


class NonFinite(Callback):
    """action: `stop`, or `skip` the update, at most `at_most` times in a run.

    On a GPU nothing waits for the answer: a fused optimizer leaves out the update by itself (`found_inf`), and the
    answer is read one step later. Elsewhere it is read at once. Under 16-mixed infinite gradients are the scaler's
    own way to find its scale, and only the losses are looked at.
    """

    def __init__(self, run_dir: str, action: str = "stop", at_most: int = 10):
        require_whole("callbacks.nonfinite.at_most", at_most)
        if action not in ("stop", "skip"):
            raise UserError(f"on_nonfinite={action} is unknown: choose stop or skip.")
        self.folder, self.action, self.at_most = Path(run_dir) / "nonfinite", action, at_most
        self.skipped: list[int] = []  # steps
        self._waiting: Measured | None = None

    def on_gradients_measured(self, trainer: Trainer, module: LightningModule, optimizer) -> None:
        """Called by the module when the gradients of a whole window are there, before the update."""
        self._read(trainer, module)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        losses = [loss for seen in module.microbatching.window for loss in seen.per_sample]
        finite = torch.isfinite(torch.cat(losses)).all() if scaled else torch.isfinite(module.grad_norm)
        self._waiting = Measured(trainer.global_step + 1, finite, list(module.microbatching.window))
        if finite.is_cuda and not scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()
            self._waiting.finite = finite.to("cpu", non_blocking=True)
            self._waiting.arrived = torch.cuda.Event()
            self._waiting.arrived.record()
            return
        if not finite.item():
            optimizer.zero_grad()  # an optimizer leaves out what has no gradient
        self._read(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._read(trainer, module)

    def _read(self, trainer: Trainer, module: LightningModule) -> None:
        measured, self._waiting = self._waiting, None
        if measured is None:
            return
        if measured.arrived is not None:  # a copy that nobody waited for holds anything at all
            measured.arrived.synchronize()
        if not measured.finite.item():
            self._found(trainer, module, measured)

    def _found(self, trainer: Trainer, module: LightningModule, measured: Measured) -> None:
        with paused(trainer):
            names = trainer.datamodule.image_set.names
            told = described(measured.window, names, trainer.world_size > 1)
            where = f" (process {trainer.global_rank})" if trainer.world_size > 1 else ""
            text = f"step {measured.step}{where}: {told}"
            self.skipped.append(measured.step)
            if self.action == "skip" and len(self.skipped) <= self.at_most:
                warn(f"{text} The update is left out: {len(self.skipped)} of at most {self.at_most} times.")
                if trainer.logger is not None:
                    trainer.logger.log_metrics({"train/updates_left_out": len(self.skipped)}, step=measured.step)
                return
            file = self._kept(module, measured, trainer.global_rank)
        more = f" It was number {len(self.skipped)};" if self.action == "skip" else ""
        raise UserError(
            f"{text} Nothing was updated.{more} {shown(file)} repeats it (docs/reliability.md). If training diverged, "
            "use a lower optimizer.lr or trainer.precision=32-true; on_nonfinite=skip leaves out such steps."
        )

    def _kept(self, module: LightningModule, measured: Measured, rank: int) -> Path:
        """What is needed to repeat the step: the weights, which it did not change, and its images."""
        file = self.folder / f"step_{measured.step:06d}{f'_process_{rank}' if rank else ''}.pt"
        batches = [asdict(seen.batch.to("cpu")) for seen in measured.window]
        weights = {name: w.cpu() for name, w in module.denoiser.state_dict().items()}
        with written(file) as partial:
            torch.save({"step": measured.step, "denoiser": weights, "batches": batches}, partial)
        return file

    def state_dict(self) -> dict:
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        self.skipped = list(state["skipped"])


def described(window: list[MicroBatch], names: tuple[str, ...], among_others: bool = False) -> str:
    """A sentence with images and timesteps: of the losses that are not finite, or of all where only gradients are."""
    rows, t = torch.cat([seen.batch.row for seen in window]).tolist(), _joined(window, "t").tolist()
    bad = (~torch.isfinite(_joined(window, "per_sample"))).tolist()
    images = [f"{names[row]} at t={at}" for row, at in zip(rows, t, strict=True)]
    guilty = [image for image, is_bad in zip(images, bad, strict=True) if is_bad]
    if guilty:
        return f"the loss is not a number for {_listed(guilty)}."
    others = " here, but a loss of another process may not be, or" if among_others else ", but"
    return f"the losses are numbers{others} their gradient is not: {_listed(images)}."


def _listed(images: list[str]) -> str:
    more = f" and {len(images) - 8} more" if len(images) > 8 else ""
    return ", ".join(images[:8]) + more


def _joined(window: list[MicroBatch], name: str) -> torch.Tensor:
    return torch.cat([part.cpu() for seen in window for part in getattr(seen, name)])
