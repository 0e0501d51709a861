"""last.ckpt, previous.ckpt and best.ckpt: written atomically, plain tensors and dicts only.

A finished run keeps last.ckpt and, if the best step is an earlier one, its EMA weights alone.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils._pytree import tree_leaves

from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown, written
from chrysalis.system.ranges import Positive
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.callbacks.progress import Clock

LOWER_IS_BETTER = {"val_loss": True, "kd": True, "fd": True, "coverage": False}


class CompleteCheckpoints(TorchCheckpointIO):
    """Writes beside the target, syncs and renames; reads with weights_only, so that no code in the file runs."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        """Save a checkpoint if there is room for it; a last.ckpt that it replaces is kept as previous.ckpt."""
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        advice = "Make room on the disk and start again."
        if (folder / "last.ckpt").is_file():
            advice = f"The checkpoint before it is intact: make room on the disk, then resume={shown(folder.parent)}"
        # 1. Room on the disk; tensors that share a storage count once
        storages = [leaf.untyped_storage() for leaf in tree_leaves(checkpoint) if isinstance(leaf, torch.Tensor)]
        needed = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
        free = shutil.disk_usage(folder).free
        if free < 1.02 * needed + 2**20:
            raise UserError(
                f"{shown(folder)} has {free / 1e6:.0f} MB left, and the checkpoint of step {checkpoint['global_step']} "
                f"takes {needed / 1e6:.0f} MB. {advice}"
            )
        # 2. The file
        path, previous = Path(path), folder / "previous.ckpt"
        try:
            with written(path, previous if path.name == "last.ckpt" else None) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            why = getattr(error, "strerror", None) or "writing ended early, as on a full disk or at a size limit"
            raise UserError(f"{shown(path)} could not be written: {why}. {advice}") from error

    def load_checkpoint(self, path, map_location=None, weights_only=True) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"{shown(path)} is not a checkpoint of this program: start a new run.") from error


class Best(Callback):
    """Keeps the best step so far, whose EMA weights go into best.ckpt and the export.

    monitor: val_loss, or a metric of callbacks.evaluate. value: the lowest so far; coverage is negated.
    """

    saved = ("monitor", "step", "value")

    def __init__(self, monitor: Literal["val_loss", "kd", "fd", "coverage"] = "val_loss"):
        self.monitor, self.step, self.value = monitor, 0, float("inf")

    def update(self, monitor: str, step: int, value: float) -> None:
        """Compare a metric that another callback has measured at a step."""
        signed = value if LOWER_IS_BETTER[monitor] else -value
        if monitor == self.monitor and signed < self.value:
            self.step, self.value = step, signed

    def on_validation_images_changed(self) -> None:
        if self.monitor == "val_loss":
            self.forget()

    def forget(self) -> None:
        """Discard the best step so far, whose metric cannot be compared with later ones."""
        self.step, self.value = 0, float("inf")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["monitor"] == self.monitor:
            super().load_state_dict(state)


class Checkpoint(Callback):
    """Saves last.ckpt regularly and at the end, and best.ckpt at the best step so far."""

    def __init__(self, run_dir: str, every_n_train_steps: Positive = 100, keep: Literal["last", "all"] = "last"):
        self.folder, self.every_n_train_steps, self.keep = Path(run_dir) / "checkpoints", every_n_train_steps, keep
        self.is_saving = False
        self._saved_steps = {"last": 0, "best": 0}

    def on_load_checkpoint(self, trainer: Trainer, module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's epoch and batch counters to match the number of micro-batches so far.

        Lightning counts an epoch as done when a run stops inside it, and continues one that has just ended; both would
        repeat or skip images.
        """
        fit_loop = checkpoint["loops"]["fit_loop"]
        batches = fit_loop["epoch_loop.batch_progress"]
        total = batches["total"]["ready"]
        epochs, inside = divmod(total, trainer.datamodule.micro_batches())
        for key in batches["total"]:
            batches["total"][key], batches["current"][key] = total, inside
        batches["is_last_batch"] = False
        started = epochs + (inside > 0)
        for counters in (fit_loop["epoch_progress"]["total"], fit_loop["epoch_progress"]["current"]):
            counters.update(ready=started, started=started, processed=epochs, completed=epochs)

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        best = find(trainer, Best).step
        if trainer.global_step:
            say(f"resumed after step {trainer.global_step}")
        self._saved_steps = {"last": trainer.global_step, "best": best}
        if trainer.global_step and best == trainer.global_step:  # it was measured only now, or best.ckpt is missing
            self.save(trainer, "best")

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self.save_if_new(trainer, "best", find(trainer, Best).step)
        if trainer.global_step % self.every_n_train_steps == 0:
            self.save_if_new(trainer, "last", trainer.global_step)

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self.save_if_new(trainer, "best", find(trainer, Best).step)
        if trainer.global_step:
            self.save(trainer)  # once more, with what was measured at the end

    def save(self, trainer: Trainer, name: str = "last") -> None:
        """Save the state after the current optimizer step; every process must call this."""
        self.is_saving = True
        try:
            with find(trainer, Clock).paused():
                trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        finally:
            self.is_saving = False
        self._saved_steps[name] = trainer.global_step

    def save_if_new(self, trainer: Trainer, name: str, step: int) -> None:
        """Save at most once a step, and `best` only while the best step is the current one."""
        if step > self._saved_steps[name] and step == trainer.global_step:
            self.save(trainer, name)

    def best_weights(self, trainer: Trainer) -> tuple[int, dict[str, torch.Tensor]]:
        """(step, EMA weights) of the best step; of the last one if best.ckpt is missing, damaged or of another step."""
        file, ema, best = self.folder / "best.ckpt", find(trainer, EMA), find(trainer, Best).step
        if best < trainer.global_step and checkpoints.intact(file):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            if checkpoint["global_step"] == best:
                return best, checkpoint["callbacks"][ema.state_key]["ema_weights"]
        return trainer.global_step, ema.ema_weights

    def delete_unneeded(self, trainer: Trainer) -> None:
        """After the export, delete previous.ckpt and all of best.ckpt but its step and EMA weights, unless keep=all."""
        best = self.folder / "best.ckpt"
        if self.keep == "all" or not checkpoints.intact(self.folder / "last.ckpt"):
            return
        (self.folder / "previous.ckpt").unlink(missing_ok=True)
        if find(trainer, Best).step == trainer.global_step:  # then last.ckpt has the best weights too
            best.unlink(missing_ok=True)
        elif checkpoints.intact(best):
            whole, key = torch.load(best, map_location="cpu", weights_only=True), find(trainer, EMA).state_key
            if whole.keys() != {"global_step", "callbacks"}:
                kept = {"global_step": whole["global_step"], "callbacks": {key: whole["callbacks"][key]}}
                CompleteCheckpoints().save_checkpoint(kept, best)
