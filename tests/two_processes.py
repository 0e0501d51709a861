"""Trainings in processes of their own, which two test files start: a few steps that another division sums alike."""

import os
import subprocess
import sys

import torch
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN]
RUN += ["trainer.precision=32-true", "trainer.max_steps=4", "trainer.accelerator=cpu"]
RUN += ["lr_schedule=constant", "optimizer.eps=1", "optimizer.lr=0.1"]  # nearly plain gradient descent


def started(folder, *overrides, env=None):
    command = [sys.executable, str(REPOSITORY / "train.py"), *RUN, *overrides]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})


def finished(process) -> tuple[int, str]:
    _, output = process.communicate(timeout=120)
    return process.returncode, output


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
