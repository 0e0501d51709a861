"""profile=true: record a few training steps as a trace, and print what costs most."""

import gzip
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from chrysalis.system.files import shown, written
from chrysalis.system.ranges import NotNegative, Positive
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.clock import Clock, paused

# The profiler's own lines on standard error are for its developers. It reads this when a process first uses it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

ROWS = 15  # of the table


class Profile(Callback):
    """Records a few optimizer steps into run_dir/profile/, if possible ones without measuring and sampling.

    It must be the first callback, so that what others do at the end of a recorded step belongs to the next one. The
    run's clock does not count the recorded steps.
    """

    def __init__(self, run_dir: str, wait: NotNegative = 5, warmup: Positive = 2, steps: Positive = 5):
        self.folder = Path(run_dir) / "profile"
        self.wait, self.warmup, self.steps = wait, warmup, steps
        self.trace: Path | None = None
        self._profiler: profile | None = None
        self._is_done = False

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        self._first_step = self._step = trainer.global_step
        self._is_done = not trainer.is_global_zero
        self._start_if_due(trainer, module, images=0)

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        if self._is_done or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._profiler is None:
            self._start_if_due(trainer, module, len(batch) * trainer.world_size)
            return
        if self._step == self._last_step:
            self._finish(self._profiler, trainer, module, len(batch) * trainer.world_size)
            return
        self._profiler.step()
        if self._step == self._last_step - self.steps:
            self._began = _now(module)

    def on_train_end(self, trainer: Trainer, module: FineTuning) -> None:
        if self._is_done:
            return
        if self._profiler is not None and self._step > self._last_step - self.steps:
            self._finish(self._profiler, trainer, module, images=0)
            return
        self._stop()
        say(
            f"profile=true: the run ended before a step was recorded, after {self.wait + self.warmup} others. "
            "Train for more steps, or use a smaller profiling.wait."
        )

    def on_exception(self, trainer: Trainer, module: FineTuning, exception: BaseException) -> None:
        self._stop()

    def _start_if_due(self, trainer: Trainer, module: FineTuning, images: int) -> None:
        """Start the profiler. images: what the run's clock is about to count."""
        if self._is_done or self._step - self._first_step < self.wait or not self._is_undisturbed(trainer):
            return
        self._last_step = self._step + self.warmup + self.steps
        with paused(trainer):
            clock = find(trainer, Clock)
            self._clock_before = clock.images + (images if clock.seconds else 0), clock.seconds
            activities = [ProfilerActivity.CPU]
            if module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            plan = schedule(wait=0, warmup=self.warmup, active=self.steps, repeat=1)
            self._profiler = profile(activities=activities, schedule=plan, acc_events=True)
            self._profiler.start()
            self._began = _now(module)

    def _is_undisturbed(self, trainer: Trainer) -> bool:
        """Whether no callback is due in the steps that would be recorded, or waiting for such steps is useless."""
        first = self._step + self.warmup
        intervals = [n for c in trainer.callbacks if isinstance(n := getattr(c, "every_n_train_steps", None), int)]
        if any(n <= self.steps for n in intervals) or self._step - self._first_step >= self.wait + 200:
            return True
        return not any(step % n == 0 for n in intervals for step in range(first, first + self.steps))

    def _finish(self, profiler: profile, trainer: Trainer, module: FineTuning, images: int) -> None:
        """Write the trace and print the costs of the steps so far. images: what the clock is about to count."""
        with paused(trainer):
            seconds, first = _now(module) - self._began, self._last_step - self.steps + 1
            recorded = self._step - first + 1
            self._stop()
            self.trace = self.folder / f"steps_{first:06d}_to_{self._step:06d}.pt.trace.json.gz"
            _write(profiler, self.trace)
            device = "device" if module.device.type == "cuda" else "cpu"
            steps = f"step {first}" if recorded == 1 else f"steps {first} to {self._step}"
            say(f"profile of {steps}, {1000 * seconds / recorded:.1f} ms each:")
            say(profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=ROWS))
            say(f"trace: {shown(self.trace)}\nOpen it at https://ui.perfetto.dev, or in Chrome at chrome://tracing.")
            clock = find(trainer, Clock)
            counts = clock.seconds > 0  # otherwise it has not begun, and will not count this batch either
            clock.images, clock.seconds = self._clock_before[0] - (images if counts else 0), self._clock_before[1]

    def _stop(self) -> None:
        self._is_done = True
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None


def _now(module: FineTuning) -> float:
    """Seconds, when the device has finished its work so far."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def _write(profiler: profile, path: Path) -> None:
    with written(path) as partial, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        with open(plain, "rb") as source, gzip.open(partial, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
