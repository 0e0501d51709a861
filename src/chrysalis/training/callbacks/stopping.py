"""Stop or save a run from outside: signals, files in its folder, a time limit; always after a whole optimizer step."""

import os
import shutil
import signal
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import chrysalis
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.signals import unwind
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.checkpoint import Checkpoint
from chrysalis.training.callbacks.progress import Clock

SAVE, FINISH, LEAVE = 1, 2, 3  # what can be requested; the larger is the more urgent
PREEMPTED = 143  # the exit code that shells use for SIGTERM
_HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none


class ExitRun(SystemExit):
    """Ends the process from within training; `code` is its exit code."""


class Stopping(Callback):
    """Saves, finishes or leaves a run on request.

    - SIGTERM, SIGUSR1, SIGUSR2, and a closed terminal (SIGHUP, unless nohup ignores it): save and leave with exit code
      143; under SLURM, SIGUSR1 and SIGUSR2 also queue the job again.
    - Ctrl-C: save, measure, export, exit code 130. A second Ctrl-C: leave now.
    - `touch RUN/stop`: save, measure, export, exit code 0. `touch RUN/save`: save and continue.

    It comes after the callbacks of every step and before those that measure, so that a preempted run leaves at once;
    what was due is measured when the run is resumed. Several processes decide together.

    max_time: DD:HH:MM:SS, or the arguments of datetime.timedelta.
    """

    def __init__(self, run_dir: str, max_time: str | dict | None = None, poll_seconds: float = 1.0):
        try:
            self.max_seconds = Timer(max_time).time_remaining()
        except (MisconfigurationException, AttributeError, OverflowError, TypeError):
            example = "give DD:HH:MM:SS, such as 00:01:30:00"
            raise UserError(f"trainer.max_time={max_time} is not a duration: {example}.") from None
        self.folder, self.poll_seconds = Path(run_dir), poll_seconds
        self.request, self.signum, self.exit_code = 0, 0, 0
        self._leave_signal = 0  # the signal that requests LEAVE
        self._save_signal = 0  # the signal that requests SAVE, whose earlier handler decides what follows
        handlers = {s: signal.getsignal(s) for s in _signals()}  # Lightning's own come later
        self._earlier_handlers = {s: signal.SIG_DFL if h is unwind else h for s, h in handlers.items()}
        self._seconds_before, self._began, self._polled = 0.0, time.monotonic(), 0.0
        self._group: Any = None  # torch's process group, of several processes
        self._is_ending, self._is_listening = False, False

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._trainer, self._began = trainer, time.monotonic()
        if trainer.is_global_zero:
            for file in (self.folder / "stop", self.folder / "save"):
                if file.exists() and file.stat().st_mtime < chrysalis.PROCESS_START:  # meant for an earlier command
                    file.unlink(missing_ok=True)
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # so that no GPU is waited for
        if threading.current_thread() is threading.main_thread():
            self._is_listening = True
            for signum in _signals():
                signal.signal(signum, self._on_signal)

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        request = self._joint_request()
        if request == LEAVE:
            # the first process's exit code counts; another's would make Lightning kill it while it saves
            raise ExitRun(PREEMPTED if trainer.is_global_zero else 0)
        if request == SAVE:
            find(trainer, Checkpoint).save(trainer)
            self.request = 0
            say(f"step {trainer.global_step}: saved")
            signum, self._save_signal = self._save_signal, 0
            self._call_earlier_handler(signum)
        if request == FINISH:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        """Save first: what follows takes its time, and can then be left at any moment."""
        if trainer.world_size == 1 and trainer.global_step:
            find(trainer, Checkpoint).save_if_new(trainer, "last", trainer.global_step)
        self._is_ending = True
        if self.request == LEAVE and trainer.world_size == 1:
            raise ExitRun(PREEMPTED)

    def teardown(self, trainer: Trainer, module: TrainingModule, stage: str) -> None:
        if self._is_listening:
            for signum, handler in self._earlier_handlers.items():
                signal.signal(signum, handler)
        self._is_listening = False

    def _on_signal(self, signum: int, frame) -> None:
        # 1. Ctrl-C finishes the run; twice, it leaves now
        is_repeated, self.signum = self.signum == signum, signum
        if signum == signal.SIGINT:
            if is_repeated:
                self.request = 0
                raise ExitRun(130)
            self.request, self.exit_code = max(self.request, FINISH), 130
            os.write(2, b"\nfinishing after this step: saving, measuring, exporting. Ctrl-C again to leave now.\n")
            return
        # 2. An earlier handler of SIGTERM decides for itself whether the process ends; it is called after saving
        if signum == signal.SIGTERM and callable(self._earlier_handlers[signum]):
            self.request, self._save_signal = max(self.request, SAVE), signum
        else:
            self.request, self._leave_signal = LEAVE, signum
        # 3. Between two steps there may be minutes of sampling, for which a single process need not wait
        clock, is_saving = find(self._trainer, Clock), find(self._trainer, Checkpoint).is_saving
        can_leave = (clock.is_paused or self._is_ending) and not is_saving and self._trainer.world_size == 1
        if self.request == LEAVE and can_leave and not is_repeated:
            raise ExitRun(PREEMPTED)

    def _joint_request(self) -> int:
        """The most urgent request to any process; all of them learn it at the same step."""
        now = time.monotonic()
        if self._trainer.is_global_zero and now - self._polled >= self.poll_seconds:
            self._polled = now
            for name, request in (("save", SAVE), ("stop", FINISH)):
                if (self.folder / name).exists():
                    (self.folder / name).unlink(missing_ok=True)
                    self.request = max(self.request, request)
        if self.max_seconds is not None and self._elapsed() >= self.max_seconds and self.request < FINISH:
            self.request = FINISH
            say(f"trainer.max_time is reached: {timedelta(seconds=round(self._elapsed()))}")
        if self._group is not None:
            both = torch.tensor([self.request, self.exit_code])
            torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=self._group)
            self.request, self.exit_code = both.tolist()
        return self.request

    def on_exception(self, trainer: Trainer, module: TrainingModule, exception: BaseException) -> None:
        """Save a preempted run, whatever was interrupted, and let the job be queued again."""
        try:
            if isinstance(exception, ExitRun) and self.request == LEAVE:
                find(trainer, Checkpoint).save_if_new(trainer, "last", trainer.global_step)
                say(f"step {trainer.global_step}: saved and left. Continue with resume={shown(self.folder)}")
                is_handled = self._call_earlier_handler(self._leave_signal)  # submitit's queues the job again and exits
                if not is_handled and trainer.is_global_zero:
                    self._queue_again()
        finally:
            self.teardown(trainer, module, "fit")  # Lightning tears nothing down after an exception

    def _queue_again(self) -> None:
        """Queue the SLURM job again after SIGUSR1 or SIGUSR2, as Lightning does; it then resumes the run."""
        job, array = (os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "ARRAY_JOB_ID"))
        is_interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
        if self._leave_signal in (0, signal.SIGTERM, _HANGUP) or job is None or is_interactive:
            return
        if shutil.which("scontrol"):
            number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
            subprocess.run(["scontrol", "requeue", number], check=False)

    def _call_earlier_handler(self, signum: int) -> bool:
        """Call the handler that a signal had before training; False if it had none."""
        handler = self._earlier_handlers.get(signum)
        if not callable(handler):
            return False
        handler(signum, None)
        return True

    def _elapsed(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"_seconds_before": self._elapsed()}


def _signals() -> list[int]:
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    return known if signal.getsignal(_HANGUP) == signal.SIG_IGN else [*known, _HANGUP]
