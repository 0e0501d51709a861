"""Ending a run from outside: signals, files in its folder, a time limit. Always after a whole optimizer step."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

import chrysalis
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.signals import unwind
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.checkpoint import Checkpoint
from chrysalis.training.callbacks.clock import Clock, of

SAVE, FINISH, LEAVE = 1, 2, 3  # what is asked for, the more urgent the larger
_HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
PREEMPTED = 143  # what a shell says of a process that SIGTERM ended


class Left(SystemExit):
    """Ends the process from within training; `code` is its exit code."""


class Stopping(Callback):
    """SIGTERM, SIGUSR1 and SIGUSR2: save and leave (143; under SLURM the job is queued again, but for SIGTERM), as
    where the terminal is closed (SIGHUP), unless nohup lets it be ignored.
    Ctrl-C: save, measure, export, leave (130); a second one: leave now. `touch RUN/stop`: save, measure, export; 0.
    `touch RUN/save`: save and go on. max_time: as stop, DD:HH:MM:SS of training in all, or timedelta's arguments.

    Its place is after what changes with every step and before what measures, so that a preempted run leaves at once;
    what was due then is measured when the run continues. Several processes decide together.
    """

    def __init__(self, run_dir: str, max_time: str | dict | None = None, look_every: float = 1.0):
        self.folder, self.max_seconds, self.look_every = Path(run_dir), seconds(max_time), look_every
        self.asked, self.signum, self.code = 0, 0, 0
        self._left_by = 0  # the signal that asks for LEAVE
        self._saved_for = 0  # the signal that asks for SAVE, whose earlier handler decides what follows
        there = {s: signal.getsignal(s) for s in _signals()}  # Lightning's own come later
        self._there_before = {s: signal.SIG_DFL if handler is unwind else handler for s, handler in there.items()}
        self._seconds, self._began, self._looked, self._seen_step = 0.0, time.monotonic(), 0.0, 0
        self._group, self._ending, self._listening = None, False, False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._began, self._seen_step = trainer, time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            for file in (self.folder / "stop", self.folder / "save"):
                if file.exists() and file.stat().st_mtime < chrysalis.PROCESS_START:  # meant for an earlier command
                    file.unlink(missing_ok=True)
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # so that no GPU is waited for
        if threading.current_thread() is threading.main_thread():
            self._listening = True
            for signum in _signals():
                signal.signal(signum, self._heard)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        step = trainer.global_step
        if step == self._seen_step:
            return  # inside an accumulation window
        self._seen_step = step
        asked = self._agreed()
        if asked == LEAVE:
            # of several, the first one's exit code counts; another's would make Lightning kill it while it saves
            raise Left(PREEMPTED if trainer.is_global_zero else 0)
        if asked == SAVE:
            of(trainer, Checkpoint).save(trainer)
            self.asked = 0
            say(f"step {step}: saved")
            signum, self._saved_for = self._saved_for, 0
            if signum:
                self._there_before[signum](signum, None)
        if asked == FINISH:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """What follows takes its time: with the state saved, it can be left at any moment."""
        if trainer.world_size == 1 and trainer.global_step:
            of(trainer, Checkpoint).save_if_new(trainer, "last", trainer.global_step)
        self._ending = True
        if self.asked == LEAVE and trainer.world_size == 1:
            raise Left(PREEMPTED)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self._listening:
            for signum, handler in self._there_before.items():
                signal.signal(signum, handler)
        self._listening = False

    def _heard(self, signum: int, frame) -> None:
        """A signal came. Between steps there may be minutes of drawing; alone, this process need not wait for them."""
        again = self.signum == signum
        self.signum = signum
        if signum == signal.SIGINT:
            if again:
                self.asked = 0
                raise Left(130)
            self.asked, self.code = max(self.asked, FINISH), 130
            os.write(2, b"\nending after this step: saving, measuring, exporting. Ctrl-C again to leave now.\n")
            return
        wanted = self._wanted(signum)
        self.asked = max(self.asked, wanted)
        if wanted == SAVE:
            self._saved_for = signum
        else:
            self._left_by = signum
        clock, saving = of(self._trainer, Clock), of(self._trainer, Checkpoint).saving
        alone = self._trainer.world_size == 1
        if self.asked == LEAVE and alone and not again and not saving and (clock.is_paused or self._ending):
            raise Left(PREEMPTED)

    def _wanted(self, signum: int) -> int:
        """A handler that was there before decides for itself whether the process ends; it is called after saving."""
        return SAVE if signum == signal.SIGTERM and callable(self._there_before[signum]) else LEAVE

    def _agreed(self) -> int:
        """The most urgent that any process was asked for; all of them learn it at the same step."""
        now = time.monotonic()
        if self._trainer.is_global_zero and now - self._looked >= self.look_every:
            self._looked = now
            for name, what in (("save", SAVE), ("stop", FINISH)):
                if (self.folder / name).exists():
                    (self.folder / name).unlink(missing_ok=True)
                    self.asked = max(self.asked, what)
        if self.max_seconds is not None and self._elapsed() >= self.max_seconds and self.asked < FINISH:
            self.asked = FINISH
            say(f"trainer.max_time is over: {timedelta(seconds=round(self._elapsed()))}")
        if self._group is not None:
            both = torch.tensor([self.asked, self.code])
            torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=self._group)
            self.asked, self.code = both.tolist()
        return self.asked

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Preempted, and whatever was going on is undone: save this step, and let the job be queued again."""
        if not isinstance(exception, Left) or self.asked != LEAVE:
            return
        of(trainer, Checkpoint).save_if_new(trainer, "last", trainer.global_step)
        say(f"step {trainer.global_step}: saved and left. Continue with resume={shown(self.folder)}")
        earlier = self._there_before.get(self._left_by)
        if callable(earlier):
            earlier(self._left_by, None)  # submitit's queues the job again and exits
        elif self._left_by not in (0, signal.SIGTERM, _HANGUP) and trainer.is_global_zero:
            _queue_again()

    def leave(self) -> None:
        """At the very end: the exit code that a shell expects of what was asked for."""
        if self.code and self._trainer.is_global_zero:
            raise Left(self.code)

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._began

    def state_dict(self) -> dict:
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state: dict) -> None:
        self._seconds = state["seconds"]


def seconds(max_time: str | dict | None) -> float | None:
    """'DD:HH:MM:SS', or the arguments of datetime.timedelta, in seconds."""
    if max_time is None:
        return None
    try:
        if isinstance(max_time, str):
            parts = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", max_time.strip()).groups()
            return sum(int(n) * unit for n, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
        return timedelta(**max_time).total_seconds()
    except (AttributeError, TypeError, OverflowError):
        raise UserError(
            f"trainer.max_time={max_time} is not a duration: give DD:HH:MM:SS, such as 00:01:30:00."
        ) from None


def _signals() -> list[int]:
    there = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    return there if signal.getsignal(_HANGUP) == signal.SIG_IGN else [*there, _HANGUP]


def _queue_again(run: Callable = subprocess.run) -> None:
    """Under SLURM, as Lightning does it: the same job once more, which then continues (resume=true)."""
    job = os.environ.get("SLURM_JOB_ID")
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if job is None or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return
    number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    if shutil.which("scontrol"):
        run(["scontrol", "requeue", number], check=False)
