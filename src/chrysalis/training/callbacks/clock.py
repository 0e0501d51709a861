"""Time spent on training alone, from which images per second and the time left are computed."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from chrysalis.system.ranges import NotNegative
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find


class Clock(Callback):
    """Counts images and seconds of training, without measurements and sampling."""

    def __init__(self, warmup_steps: NotNegative = 3):
        self.warmup_steps, self.images, self.seconds = warmup_steps, 0, 0.0
        self.first_step_at: float | None = None  # time.time() at the end of the first optimizer step
        self.is_paused = False
        self._running_since: float | None = None
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        if self.first_step_at is None and trainer.global_step > self._first_step:
            _synchronize()
            self.first_step_at = time.time()
        if self._running_since is not None:
            self.images += len(batch) * trainer.world_size
        elif trainer.global_step - self._first_step >= self.warmup_steps:
            self._start()

    def images_per_second(self) -> float | None:
        seconds = self.seconds + (time.perf_counter() - self._running_since if self._running_since else 0)
        return self.images / seconds if self.images else None

    def _start(self) -> None:
        _synchronize()
        self._running_since = time.perf_counter()

    def _stop(self) -> bool:
        """Add the seconds since the start; returns whether the clock was running."""
        if self._running_since is None:
            return False
        _synchronize()
        self.seconds += time.perf_counter() - self._running_since
        self._running_since = None
        return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count."""
        was_running, was_paused = self._stop(), self.is_paused
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = was_paused
            if was_running:
                self._start()

    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None:
        self._stop()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paused(trainer: Trainer) -> AbstractContextManager[None]:
    """Inside, the run's clock stands still."""
    return find(trainer, Clock).paused()
