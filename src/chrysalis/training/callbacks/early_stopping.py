"""Stop when the validation loss has stopped improving."""

import torch

from chrysalis.evaluation.validation_loss import paired_difference
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Positive, StandardErrors
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.validation import Validation


class EarlyStopping(Callback):
    """Stops after `patience` measurements in a row without an improvement of the EMA weights' validation loss.

    An improvement is a decrease by more than `min_delta` standard errors of the paired difference over the validation
    images, so that chance does not reset the wait. docs/experiments.md compares the choices.
    """

    saved = ("best_step", "waited", "last_step", "lowest")

    def __init__(self, patience: Positive = 5, min_delta: StandardErrors = 1.0):
        self.patience, self.min_delta = patience, min_delta
        self.on_validation_images_changed()

    def on_validation_images_changed(self) -> None:
        self.best_step, self.waited, self.last_step = 0, 0, 0
        self.lowest: torch.Tensor | None = None  # [N, timesteps]

    def require_measurements(self, steps: int | None, every_n_train_steps: int, n_validation: int) -> None:
        """Refuse fewer than two validation images, and say if a run of so many steps (None: endless) is too short."""
        if n_validation < 2:
            raise UserError("callbacks=early_stopping needs at least two validation images: raise data.val_fraction.")
        if steps is not None and (n := (steps - 1) // every_n_train_steps) < self.patience:
            say(
                f"callbacks=early_stopping cannot stop this run: it waits for {self.patience} measurements, and there "
                f"are {n} before the last step. Lower callbacks.validation.every_n_train_steps={every_n_train_steps} "
                "or callbacks.early_stopping.patience."
            )

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        for step, losses in find(trainer, Validation).measured.items():
            if step > self.last_step or self.lowest is None:
                self.update(step, losses["ema"])
        if self.waited >= self.patience and not trainer.should_stop:
            say(
                f"step {trainer.global_step}: early stopping. The validation loss has not improved since step "
                f"{self.best_step}, for {self.waited} measurements (callbacks.early_stopping.patience)."
            )
            trainer.should_stop = True

    def update(self, step: int, losses: torch.Tensor) -> None:
        """Compare the losses float32 [N, timesteps] measured at a step with the lowest ones before."""
        self.last_step = step
        if self.lowest is not None:
            change = paired_difference(losses, self.lowest)
            if change.mean >= -self.min_delta * change.standard_error:
                self.waited += 1
                return
        self.lowest, self.best_step, self.waited = losses, step, 0
