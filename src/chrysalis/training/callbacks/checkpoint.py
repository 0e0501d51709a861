"""last.ckpt, the one before it and best.ckpt: complete or absent, plain tensors and dicts only.

Of a run that has ended there is last.ckpt, and of an earlier best step the EMA weights alone.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.files import shown, written
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.best_step import Best
from chrysalis.training.callbacks.clock import of, paused
from chrysalis.training.callbacks.ema import EMA


class CompleteCheckpoints(TorchCheckpointIO):
    """Written beside the target, synced and renamed; read with weights_only, so that nothing unpickles."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        """Of last.ckpt, the one that it replaces is kept as previous.ckpt. Raises UserError where it does not fit."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        require_room(path.parent, size(checkpoint), checkpoint["global_step"])
        before = path.with_name("previous.ckpt") if path.name == "last.ckpt" else None
        try:
            with written(path, before) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch's own writer says RuntimeError
            raise _unwritten(path, error) from error

    def load_checkpoint(self, path, map_location=None, weights_only=True) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{shown(path)} is not a checkpoint of this program: {why[:200]}") from error


def size(state: Any) -> int:
    """Bytes of the tensors in nested dicts and lists, each storage once."""
    storages: dict[int, int] = {}

    def walk(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            storages[node.untyped_storage().data_ptr()] = node.untyped_storage().nbytes()
        elif isinstance(node, dict):
            for value in node.values():
                walk(value)
        elif isinstance(node, list | tuple):
            for value in node:
                walk(value)

    walk(state)
    return sum(storages.values())


def require_room(folder: Path, needed: int, step: int) -> None:
    """Raises UserError if the disk of `folder` has less than `needed` bytes and a little more."""
    free = shutil.disk_usage(folder).free
    if free < 1.02 * needed + 2**20:
        raise UserError(
            f"{shown(folder)} has {free / 1e6:.0f} MB left, and the checkpoint of step {step} takes "
            f"{needed / 1e6:.0f} MB. {_intact_before(folder)}"
        )


def _unwritten(path: Path, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or "writing ended early, as it does on a full disk or at a limit"
    return UserError(f"{shown(path)} could not be written: {why}. {_intact_before(path.parent)}")


def _intact_before(folder: Path) -> str:
    if not (folder / "last.ckpt").is_file():
        return "Make room on the disk and start again."
    return f"The checkpoint before it is intact: make room on the disk, then resume={shown(folder.parent)}"


class Checkpoint(Callback):
    """last.ckpt every `every_n_train_steps` optimizer steps and at the end; best.ckpt at the best step so far.

    keep: of a run that has ended, `last` keeps what continuing it needs, `all` every file.
    """

    def __init__(self, run_dir: str, every_n_train_steps: int = 100, keep: str = "last"):
        require_whole("callbacks.checkpoint.every_n_train_steps", every_n_train_steps)
        if keep not in ("last", "all"):
            raise UserError(f"callbacks.checkpoint.keep={keep} is unknown: choose last or all.")
        self.folder, self.every_n_train_steps, self.keep = Path(run_dir) / "checkpoints", every_n_train_steps, keep
        self.saving = False
        self._saved = {"last": 0, "best": 0}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict) -> None:
        count_passes(checkpoint["loops"]["fit_loop"], trainer.datamodule.micro_batches())

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        best = of(trainer, Best).step
        if trainer.global_step:
            say(f"continues after step {trainer.global_step}")
        self._saved = {"last": trainer.global_step, "best": best}
        if trainer.global_step and best == trainer.global_step:  # measured only now, or killed since
            self._saved["best"] = trainer.global_step - 1
            self.save_if_new(trainer, "best", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self.save_if_new(trainer, "best", of(trainer, Best).step)
        if trainer.global_step % self.every_n_train_steps == 0:
            self.save_if_new(trainer, "last", trainer.global_step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save_if_new(trainer, "best", of(trainer, Best).step)
        if trainer.global_step:
            self.save(trainer)  # once more, with what was measured at the end

    def save(self, trainer: Trainer, name: str = "last") -> None:
        """The state after the current optimizer step; every process calls this."""
        self.saving = True
        try:
            with paused(trainer):
                trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        finally:
            self.saving = False
        self._saved[name] = trainer.global_step

    def save_if_new(self, trainer: Trainer, name: str, step: int) -> None:
        """At most once a step, and `best` only while its step is the current one."""
        if step > self._saved[name] and step == trainer.global_step:
            self.save(trainer, name)

    def drop_what_is_not_needed(self, trainer: Trainer) -> None:
        """Once a run is exported: without the checkpoint before the last, nor the best step's optimizer state."""
        last, best = self.folder / "last.ckpt", self.folder / "best.ckpt"
        if self.keep == "all" or not checkpoints.intact(last):
            return
        (self.folder / "previous.ckpt").unlink(missing_ok=True)
        at = of(trainer, Best).step
        if at == trainer.global_step:  # then last.ckpt has these weights too
            best.unlink(missing_ok=True)
        elif checkpoints.intact(best):
            keep_averages(best, of(trainer, EMA).state_key)


def keep_averages(file: Path, key: str) -> None:
    """Let a checkpoint hold its step and, under the callback `key`, its EMA weights alone."""
    whole = torch.load(file, map_location="cpu", weights_only=True)
    averages = {key: {"averages": whole["callbacks"][key]["averages"]}}
    if whole.keys() != {"global_step", "callbacks"}:
        CompleteCheckpoints().save_checkpoint({"global_step": whole["global_step"], "callbacks": averages}, file)


def count_passes(fit_loop: dict, per_pass: int) -> None:
    """Set Lightning's counters, in place, to what the number of micro-batches so far means.

    Lightning counts a pass as done when a run stops inside it, and continues one that had just ended; both
    would repeat or leave out images.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    total = batches["total"]["ready"]
    passes, inside = divmod(total, per_pass)
    for key in batches["total"]:
        batches["total"][key], batches["current"][key] = total, inside
    batches["is_last_batch"] = False
    begun = passes + (inside > 0)
    for counters in (fit_loop["epoch_progress"]["total"], fit_loop["epoch_progress"]["current"]):
        counters.update(ready=begun, started=begun, processed=passes, completed=passes)
