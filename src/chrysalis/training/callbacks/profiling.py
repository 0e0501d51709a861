"""profile=true: record a few training steps as a trace, and print what costs most."""

import os
import shutil
import tempfile
from pathlib import Path

from torch.profiler import profile, schedule

from chrysalis.system.files import shown, written
from chrysalis.system.ranges import From1To10000, UpTo10000
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.progress import Clock, now

# The profiler's own lines on standard error are for its developers. It reads this when a process first uses it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

ROWS = 15  # operations in the printed table
LONGEST_WAIT = 200  # optimizer steps after `wait` within which undisturbed ones are looked for


class Profile(Callback):
    """Records a few optimizer steps into run_dir/profile/, if possible ones without measuring and sampling.

    It must be the first callback, so that what others do at the end of a recorded step belongs to the next one. The
    run's clock does not count the recorded steps.
    """

    def __init__(self, run_dir: str, wait: UpTo10000 = 5, warmup: From1To10000 = 2, steps: From1To10000 = 5):
        self.folder = Path(run_dir) / "profile"
        self.wait, self.warmup, self.steps = wait, warmup, steps
        self.trace: Path | None = None
        self._profiler: profile | None = None
        self._is_done = False

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._first_step, self._is_done = trainer.global_step, not trainer.is_global_zero
        self._start_if_due(trainer)

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        if self._is_done:
            return
        if self._profiler is None:
            self._start_if_due(trainer)
        elif trainer.global_step == self._last_step:
            self._finish(self._profiler, trainer, module)
        else:
            self._profiler.step()
            if trainer.global_step == self._last_step - self.steps:
                self._began = now()

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        if self._is_done:
            return
        if self._profiler is not None and trainer.global_step > self._last_step - self.steps:
            self._finish(self._profiler, trainer, module)
            return
        self._stop()
        say(
            f"profile=true: the run ended before a step was recorded (the first {self.wait + self.warmup} never are). "
            "Train for more steps, or use a smaller profiling.wait."
        )

    def on_exception(self, trainer: Trainer, module: TrainingModule, exception: BaseException) -> None:
        self._stop()

    def _start_if_due(self, trainer: Trainer) -> None:
        """Start the profiler if no callback is due in the steps that it would record, or waiting longer is useless."""
        step, waited = trainer.global_step, trainer.global_step - self._first_step - self.wait
        if self._is_done or waited < 0:
            return
        recorded = range(step + self.warmup, step + self.warmup + self.steps)
        intervals = [n for c in trainer.callbacks if isinstance(n := getattr(c, "every_n_train_steps", None), int)]
        is_useless = waited >= LONGEST_WAIT or any(n <= self.steps for n in intervals)
        if not is_useless and any(at % n == 0 for n in intervals for at in recorded):
            return
        self._last_step = step + self.warmup + self.steps
        clock = find(trainer, Clock)
        with clock.paused():
            self._clock_before = clock.images, clock.seconds
            plan = schedule(wait=0, warmup=self.warmup, active=self.steps, repeat=1)
            self._profiler = profile(schedule=plan, acc_events=True)  # activities: by default all that are available
            self._profiler.start()

    def _finish(self, profiler: profile, trainer: Trainer, module: TrainingModule) -> None:
        """Write the trace and print the costs of the steps so far."""
        clock, last = find(trainer, Clock), trainer.global_step
        with clock.paused():
            seconds, first = now() - self._began, self._last_step - self.steps + 1
            recorded = last - first + 1
            self._stop()
            self.trace = self.folder / f"steps_{first:06d}_to_{last:06d}.pt.trace.json.gz"
            with written(self.trace) as partial, tempfile.TemporaryDirectory() as folder:
                profiler.export_chrome_trace(f"{folder}/trace.json.gz")
                shutil.copyfile(f"{folder}/trace.json.gz", partial)
            device = "device" if module.device.type == "cuda" else "cpu"
            steps = f"step {first}" if recorded == 1 else f"steps {first} to {last}"
            say(f"profile of {steps}, {1000 * seconds / recorded:.1f} ms each:")
            say(profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=ROWS))
            say(f"trace: {shown(self.trace)}\nOpen it at https://ui.perfetto.dev, or in Chrome at chrome://tracing.")
            clock.images, clock.seconds = self._clock_before

    def _stop(self) -> None:
        self._is_done = True
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
