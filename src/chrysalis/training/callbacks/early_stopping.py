"""Ends a run whose validation loss has stopped to fall."""

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.evaluation.validation_loss import paired_difference
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.clock import of
from chrysalis.training.callbacks.validation import Validation


class EarlyStopping(Callback):
    """Stops after `patience` measurements in a row of which none was surely lower than the lowest before them.

    Surely: by more than `sure` standard errors of the paired difference over the validation images, so that the wait
    is not begun again by chance. The EMA weights are measured. What is right is discussed in docs/experiments.md.
    """

    def __init__(self, patience: int = 5, min_delta: float = 1.0):
        require_whole("callbacks.early_stopping.patience", patience)
        if not 0 <= min_delta <= 10:
            raise UserError(f"callbacks.early_stopping.min_delta={min_delta} must be a number from 0 to 10.")
        self.patience, self.min_delta = patience, min_delta
        self.step, self.waited, self.seen = 0, 0, 0
        self.lowest: torch.Tensor | None = None  # [N, bins]

    def require_measurements(self, steps: int | None, every_n_train_steps: int, validation: int) -> None:
        """Raises UserError, or says, where the rule cannot work in a run of so many steps (None: endless)."""
        if validation < 2:
            raise UserError("callbacks=early_stopping needs two validation images or more: raise data.val_fraction.")
        if steps is not None and (steps - 1) // every_n_train_steps < self.patience:
            say(
                f"callbacks=early_stopping cannot end this run: it waits for {self.patience} measurements without an "
                f"improvement, and there are {-(-steps // every_n_train_steps)} "
                f"(callbacks.validation.every_n_train_steps={every_n_train_steps})."
            )

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        for step, losses in of(trainer, Validation).measured.items():
            if step > self.seen or self.lowest is None:
                self.hear(step, losses["ema"])
        if self.waited >= self.patience and not trainer.should_stop:
            say(
                f"step {trainer.global_step}: stops early. The validation loss has not improved since step "
                f"{self.step}, for {self.waited} measurements (callbacks.early_stopping.patience)."
            )
            trainer.should_stop = True

    def hear(self, step: int, losses: torch.Tensor) -> None:
        self.seen = step
        if self.lowest is not None:
            change = paired_difference(losses, self.lowest)
            if change.mean >= -self.min_delta * change.standard_error:
                self.waited += 1
                return
        self.lowest, self.step, self.waited = losses, step, 0

    def on_validation_images_changed(self) -> None:
        self.step, self.waited, self.seen, self.lowest = 0, 0, 0, None

    def state_dict(self) -> dict:
        return {"step": self.step, "waited": self.waited, "seen": self.seen, "lowest": self.lowest}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.waited, self.seen, self.lowest = (state[k] for k in ("step", "waited", "seen", "lowest"))
