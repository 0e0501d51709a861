"""Lightning's Trainer and Callback with their types in this project, and the lookup of a run's callback."""

from typing import Any, ClassVar, TypeVar

import lightning

from chrysalis.data.batch import Batch
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.system.errors import UserError
from chrysalis.training.module import FineTuning


class Trainer(lightning.Trainer):
    """Lightning's Trainer, whose attributes below Lightning sets without declaring them."""

    datamodule: ImageDataModule
    callbacks: list[lightning.Callback]


class Callback(lightning.Callback):
    """A callback that is given this project's module; conf/callbacks/ explains the arguments of each.

    saved: the attributes that a checkpoint keeps. Lightning passes all arguments of hooks but `stage` by position.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # pyrefly: ignore[bad-override-param-name] - by position
        vars(self).update(state)

    # fmt: off
    def setup(self, trainer: Trainer, module: FineTuning, stage: str) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - Lightning passes the module of Trainer.fit
    def teardown(self, trainer: Trainer, module: FineTuning, stage: str) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    def on_fit_start(self, trainer: Trainer, module: FineTuning) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    def on_train_batch_start(self, trainer: Trainer, module: FineTuning, batch: Batch, batch_index: int) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    def on_train_batch_end(  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
        self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int
    ) -> None: ...
    def on_exception(self, trainer: Trainer, module: FineTuning, exception: BaseException) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    def on_load_checkpoint(self, trainer: Trainer, module: FineTuning, checkpoint: dict[str, Any]) -> None: ...  # pyrefly: ignore[bad-override, bad-override-param-name] - as above
    # fmt: on


__all__ = ["Batch", "Callback", "FineTuning", "Trainer", "find"]  # all that a callback's hooks name

Kind = TypeVar("Kind", bound=lightning.Callback)


def find(trainer: Trainer, kind: type[Kind]) -> Kind:
    """The run's callback of a class; raises UserError if it was removed from the configuration."""
    found = next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)
    if found is None:
        raise UserError(f"The callback {kind.__name__} is missing, and others need it: add it to callbacks again.")
    return found
