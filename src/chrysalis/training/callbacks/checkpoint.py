"""last.ckpt, previous.ckpt and best.ckpt: complete or absent, plain tensors and dicts only.

A finished run keeps last.ckpt and, if the best step is an earlier one, its EMA weights alone.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError, first_line
from chrysalis.system.files import shown, written
from chrysalis.system.ranges import Positive
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.best_step import Best
from chrysalis.training.callbacks.clock import paused
from chrysalis.training.callbacks.ema import EMA


class CompleteCheckpoints(TorchCheckpointIO):
    """Writes beside the target, syncs and renames; reads with weights_only, so that nothing is unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        """Save a checkpoint; a last.ckpt that it replaces is kept as previous.ckpt."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        require_disk_space(path.parent, storage_bytes(checkpoint), checkpoint["global_step"])
        previous = path.with_name("previous.ckpt") if path.name == "last.ckpt" else None
        try:
            with written(path, previous) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            why = getattr(error, "strerror", None) or "writing ended early, as on a full disk or at a size limit"
            raise UserError(f"{shown(path)} could not be written: {why}. {_advice(path.parent)}") from error

    def load_checkpoint(self, path, map_location=None, weights_only=True) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"{shown(path)} is not a checkpoint of this program: {first_line(error)}.") from error


def storage_bytes(state: object) -> int:
    """Bytes of the tensors in nested dicts and lists; tensors that share a storage count once."""
    storages: dict[int, int] = {}

    def walk(node: object) -> None:
        if isinstance(node, torch.Tensor):
            storages[node.untyped_storage().data_ptr()] = node.untyped_storage().nbytes()
        elif isinstance(node, dict | list | tuple):
            for value in node.values() if isinstance(node, dict) else node:
                walk(value)

    walk(state)
    return sum(storages.values())


def require_disk_space(folder: Path, needed: int, step: int) -> None:
    """Raise UserError if the disk of `folder` has less than `needed` bytes and 2 % more free."""
    free = shutil.disk_usage(folder).free
    if free < 1.02 * needed + 2**20:
        raise UserError(
            f"{shown(folder)} has {free / 1e6:.0f} MB left, and the checkpoint of step {step} takes "
            f"{needed / 1e6:.0f} MB. {_advice(folder)}"
        )


def _advice(folder: Path) -> str:
    if not (folder / "last.ckpt").is_file():
        return "Make room on the disk and start again."
    return f"The checkpoint before it is intact: make room on the disk, then resume={shown(folder.parent)}"


class Checkpoint(Callback):
    """Saves last.ckpt regularly and at the end, and best.ckpt at the best step so far."""

    def __init__(self, run_dir: str, every_n_train_steps: Positive = 100, keep: Literal["last", "all"] = "last"):
        self.folder, self.every_n_train_steps, self.keep = Path(run_dir) / "checkpoints", every_n_train_steps, keep
        self.is_saving = False
        self._saved_steps = {"last": 0, "best": 0}

    def on_load_checkpoint(self, trainer: Trainer, module: FineTuning, checkpoint: dict[str, Any]) -> None:
        correct_epochs(checkpoint["loops"]["fit_loop"], trainer.datamodule.micro_batches())

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        best = find(trainer, Best).step
        if trainer.global_step:
            say(f"resumed after step {trainer.global_step}")
        self._saved_steps = {"last": trainer.global_step, "best": best}
        if trainer.global_step and best == trainer.global_step:  # it was measured only now, or best.ckpt is missing
            self._saved_steps["best"] = trainer.global_step - 1
            self.save_if_new(trainer, "best", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        self.save_if_new(trainer, "best", find(trainer, Best).step)
        if trainer.global_step % self.every_n_train_steps == 0:
            self.save_if_new(trainer, "last", trainer.global_step)

    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None:
        self.save_if_new(trainer, "best", find(trainer, Best).step)
        if trainer.global_step:
            self.save(trainer)  # once more, with what was measured at the end

    def save(self, trainer: Trainer, name: str = "last") -> None:
        """Save the state after the current optimizer step; every process must call this."""
        self.is_saving = True
        try:
            with paused(trainer):
                trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        finally:
            self.is_saving = False
        self._saved_steps[name] = trainer.global_step

    def save_if_new(self, trainer: Trainer, name: str, step: int) -> None:
        """Save at most once a step, and `best` only while the best step is the current one."""
        if step > self._saved_steps[name] and step == trainer.global_step:
            self.save(trainer, name)

    def delete_unneeded(self, trainer: Trainer) -> None:
        """After the export, delete previous.ckpt and the best step's optimizer state, unless keep=all."""
        last, best = self.folder / "last.ckpt", self.folder / "best.ckpt"
        if self.keep == "all" or not checkpoints.intact(last):
            return
        (self.folder / "previous.ckpt").unlink(missing_ok=True)
        if find(trainer, Best).step == trainer.global_step:  # then last.ckpt has the best weights too
            best.unlink(missing_ok=True)
        elif checkpoints.intact(best):
            keep_ema_weights(best, find(trainer, EMA).state_key)


def keep_ema_weights(file: Path, key: str) -> None:
    """Reduce a checkpoint to its step and, under the callback `key`, its EMA weights."""
    whole = torch.load(file, map_location="cpu", weights_only=True)
    averages = {key: {"averages": whole["callbacks"][key]["averages"]}}
    if whole.keys() != {"global_step", "callbacks"}:
        CompleteCheckpoints().save_checkpoint({"global_step": whole["global_step"], "callbacks": averages}, file)


def correct_epochs(fit_loop: dict, micro_batches_per_epoch: int) -> None:
    """Set Lightning's counters, in place, to what the number of micro-batches so far means.

    Lightning counts an epoch as done when a run stops inside it, and continues one that has just ended; both would
    repeat or skip images.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    total = batches["total"]["ready"]
    epochs, inside = divmod(total, micro_batches_per_epoch)
    for key in batches["total"]:
        batches["total"][key], batches["current"][key] = total, inside
    batches["is_last_batch"] = False
    started = epochs + (inside > 0)
    for counters in (fit_loop["epoch_progress"]["total"], fit_loop["epoch_progress"]["current"]):
        counters.update(ready=started, started=started, processed=epochs, completed=epochs)
