"""train.py in forked processes, which have all libraries already, to be interrupted at any moment."""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from conftest import TINY_MODEL, TINY_RUN
from tensorboard.backend.event_processing import event_accumulator  # noqa: F401

import train
from chrysalis.command.quick_start import import_libraries

import_libraries()
import chrysalis.data.datamodule  # noqa: E402
import chrysalis.training.callbacks.export  # noqa: E402
import chrysalis.training.trainer  # noqa: E402, F401

torch.set_num_threads(1)

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "trainer.accumulate_grad_batches=2"]
RUN += ["trainer.max_steps=24", "callbacks.checkpoint.every_n_train_steps=1", "callbacks.samples.n=1"]
RUN += ["callbacks.validation.every_n_train_steps=10", "callbacks.samples.every_n_train_steps=7", "preflight=false"]


def begin(folder: Path, *overrides: str, first: Callable[[], None] = lambda: None) -> int:
    """Start train.py in `folder` in a forked process, after a call of `first`; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(folder)
        out = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["train.py", *overrides]
        first()
        code = 0
        train.train()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def code_of(pid: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def life(folder: Path, *overrides: str, first: Callable[[], None] = lambda: None) -> int:
    return code_of(begin(folder, *overrides, first=first))


def kill_after(pid: int, seconds: float, signum: int = signal.SIGKILL) -> int | None:
    """Send a signal to a process after some seconds; return its exit code."""
    time.sleep(seconds)
    os.kill(pid, signum)
    return code_of(pid)


def at_micro_batch(k: int, signum: int) -> Callable[[], None]:
    """A `first` that makes the process send itself a signal in its k-th training micro-batch."""

    def arrange() -> None:
        from chrysalis.training.module import TrainingModule

        plain, seen = TrainingModule.training_step, []

        def step(self, batch, batch_index):
            seen.append(0)
            if len(seen) == k:
                os.kill(os.getpid(), signum)
            return plain(self, batch, batch_index)

        TrainingModule.training_step = step

    return arrange


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def same_weights(a: dict, b: dict) -> bool:
    """Whether step, weights, optimizer moments and EMA weights of two checkpoints are bit-identical."""

    def averages(state: dict) -> dict:
        return next(value for key, value in state["callbacks"].items() if key.startswith("EMA"))["ema_weights"]

    moments = [s["optimizer_states"][0]["state"] for s in (a, b)]
    return (
        a["global_step"] == b["global_step"]
        and all(torch.equal(w, b["state_dict"][name]) for name, w in a["state_dict"].items())
        and all(torch.equal(w, averages(b)[name]) for name, w in averages(a).items())
        and all(torch.equal(v, moments[1][p][k]) for p, state in moments[0].items() for k, v in state.items())
    )


def seeded(seed: int) -> random.Random:
    return random.Random(seed)
