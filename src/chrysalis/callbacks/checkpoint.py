"""last.ckpt and best.ckpt: complete or absent, plain tensors and dicts only."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from chrysalis.callbacks.clock import of, paused
from chrysalis.callbacks.held_out import HeldOut
from chrysalis.errors import require_whole
from chrysalis.files import written


class CompleteCheckpoints(TorchCheckpointIO):
    """Written beside the target, synced and renamed; read with weights_only, so that nothing unpickles."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        with written(Path(path)) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(self, path, map_location=None, weights_only=True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class Checkpoint(Callback):
    """last.ckpt every `every_n_steps` optimizer steps and at the end; best.ckpt when held-out loss is at its lowest."""

    def __init__(self, run_dir: str, every_n_steps: int = 100):
        require_whole("callbacks.checkpoint.every_n_steps", every_n_steps)
        self.folder, self.every_n_steps = Path(run_dir) / "checkpoints", every_n_steps
        self._saved = {"last": 0, "best": 0}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict) -> None:
        count_passes(checkpoint["loops"]["fit_loop"], trainer.datamodule.micro_batches())

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._saved = {"last": trainer.global_step, "best": of(trainer, HeldOut).best_step}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self._save(trainer, "best", of(trainer, HeldOut).best_step)
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, "last", trainer.global_step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._save(trainer, "best", of(trainer, HeldOut).best_step)
        self._save(trainer, "last", trainer.global_step)

    def _save(self, trainer: Trainer, name: str, step: int) -> None:
        """At most once a step, and `best` only while its step is the current one."""
        if step > self._saved[name] and step == trainer.global_step:
            with paused(trainer):
                trainer.save_checkpoint(self.folder / f"{name}.ckpt")
            self._saved[name] = step


def count_passes(fit_loop: dict, per_pass: int) -> None:
    """Set Lightning's counters, in place, to what the number of micro-batches so far means.

    Lightning counts a pass as done when a run stops inside it, and continues one that had just ended; both
    would repeat or leave out pictures.
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
