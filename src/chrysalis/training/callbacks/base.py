"""Lightning's Trainer and Callback with their types in this project, and the lookup of a run's callback."""

from typing import Any, ClassVar, TypeVar

import lightning

from chrysalis.data.batch import Batch
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.system.errors import UserError
from chrysalis.training.module import TrainingModule

__all__ = ["Batch", "Callback", "Trainer", "TrainingModule", "find"]  # all that a callback's hooks name
Kind = TypeVar("Kind", bound=lightning.Callback)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, whose attributes below Lightning sets without declaring them."""

    datamodule: ImageDataModule
    callbacks: list[lightning.Callback]
    log_every_n_steps: int


class Callback(lightning.Callback):
    """A callback that is given this project's module; conf/callbacks/ explains the arguments of each.

    saved: the attributes that a checkpoint keeps. Lightning passes all arguments of hooks but `stage` by position.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, *args) -> None:
        if not module.microbatching.window:  # the optimizer step has emptied it
            self.on_step_end(trainer, module)

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        """Act after an optimizer step, where on_train_batch_end would after each of its micro-batches."""


def find(trainer: Trainer, kind: type[Kind]) -> Kind:
    """The run's callback of a class; raises UserError if it was removed from the configuration."""
    found = next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)
    if found is None:
        raise UserError(f"The callback {kind.__name__} is missing, and others need it: add it to callbacks again.")
    return found
