"""Time spent on training alone: what the images per second and the progress bar are made of."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.system.errors import UserError


class Clock(Callback):
    """Counts seconds and images of training after `warmup_steps` optimizer steps, measurements and drawing left out."""

    def __init__(self, warmup_steps: int = 3):
        self.warmup_steps, self.images, self.seconds = warmup_steps, 0, 0.0
        self.first_step_at: float | None = None  # time.time() when the first optimizer step was done
        self.is_paused = False
        self._running_since: float | None = None
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if self.first_step_at is None and trainer.global_step > self._first_step:
            _synchronise()
            self.first_step_at = time.time()
        if self._running_since is not None:
            self.images += len(batch) * trainer.world_size
        elif trainer.global_step - self._first_step >= self.warmup_steps:
            self._start()

    def images_per_second(self) -> float | None:
        seconds = self.seconds + (time.perf_counter() - self._running_since if self._running_since else 0)
        return self.images / seconds if self.images else None

    def _start(self) -> None:
        _synchronise()
        self._running_since = time.perf_counter()

    def _stop(self) -> None:
        _synchronise()
        self.seconds += time.perf_counter() - self._running_since
        self._running_since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count."""
        running, outer = self._running_since is not None, self.is_paused
        if running:
            self._stop()
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = outer
            if running:
                self._start()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._running_since is not None:
            self._stop()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paused(trainer: Trainer):
    """The run's clock, paused."""
    return of(trainer, Clock).paused()


def of(trainer: Trainer, kind: type):
    """The run's callback of a kind."""
    found = next((c for c in trainer.callbacks if isinstance(c, kind)), None)
    if found is None:
        raise UserError(
            f"The callback {kind.__name__} was taken out of callbacks, where others rely on it: leave it in."
        )
    return found
