"""Ends a run whose held-out loss has stopped to fall."""

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.evaluation.validation_loss import paired
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.clock import of
from chrysalis.training.callbacks.validation import HeldOut


class EarlyStop(Callback):
    """Stops after `patience` measurements in a row of which none was surely lower than the lowest before them.

    Surely: by more than `sure` standard errors of the paired difference over the held-out pictures, so that the wait
    is not begun again by chance. The averaged weights are measured. What is right is discussed in docs/experiments.md.
    """

    def __init__(self, patience: int = 5, sure: float = 1.0):
        require_whole("callbacks.early_stop.patience", patience)
        if not 0 <= sure <= 10:
            raise UserError(f"callbacks.early_stop.sure={sure} must be a number from 0 to 10.")
        self.patience, self.sure = patience, sure
        self.step, self.waited, self.seen = 0, 0, 0
        self.lowest: torch.Tensor | None = None  # [N, bins]

    def require_measurements(self, steps: int | None, every_n_steps: int, held_out: int) -> None:
        """Raises UserError, or says, where the rule cannot work in a run of so many steps (None: endless)."""
        if held_out < 2:
            raise UserError("callbacks=early_stop needs two held-out pictures or more: raise data.val_fraction.")
        if steps is not None and (steps - 1) // every_n_steps < self.patience:
            say(
                f"callbacks=early_stop cannot end this run: it waits for {self.patience} measurements without a fall, "
                f"and there are {-(-steps // every_n_steps)} (callbacks.held_out.every_n_steps={every_n_steps})."
            )

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        for step, losses in of(trainer, HeldOut).measured.items():
            if step > self.seen or self.lowest is None:
                self.hear(step, losses["ema"])
        if self.waited >= self.patience and not trainer.should_stop:
            say(
                f"step {trainer.global_step}: stops early. Held-out loss has not surely fallen since step {self.step}, "
                f"for {self.waited} measurements (callbacks.early_stop.patience)."
            )
            trainer.should_stop = True

    def hear(self, step: int, losses: torch.Tensor) -> None:
        self.seen = step
        if self.lowest is not None:
            change = paired(losses, self.lowest)
            if change.mean >= -self.sure * change.error:
                self.waited += 1
                return
        self.lowest, self.step, self.waited = losses, step, 0

    def on_validation_images_changed(self) -> None:
        self.step, self.waited, self.seen, self.lowest = 0, 0, 0, None

    def state_dict(self) -> dict:
        return {"step": self.step, "waited": self.waited, "seen": self.seen, "lowest": self.lowest}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.waited, self.seen, self.lowest = (state[k] for k in ("step", "waited", "seen", "lowest"))
