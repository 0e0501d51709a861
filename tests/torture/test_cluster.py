"""Preempted by a scheduler: the job is queued again and continues. submitit's local executor stands for SLURM."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import TINY_MODEL, TINY_RUN, results

submitit = pytest.importorskip("submitit")
RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "name=a", "resume=true"]
RUN += ["trainer.max_steps=20000", "callbacks.checkpoint.every_n_train_steps=100000", "preflight=false"]
RUN += ["callbacks.validation.every_n_train_steps=100000", "callbacks.samples.every_n_train_steps=100000"]


class Job(submitit.helpers.Checkpointable):
    """The same command every time."""

    def __call__(self, folder: str, program: str, *overrides: str) -> None:
        import runpy

        os.chdir(folder)
        Path("pid").write_text(str(os.getpid()))
        sys.argv = [program, *overrides]
        runpy.run_path(program, run_name="__main__")


def waited_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_preempted_job_is_queued_again_and_continues(tmp_path, monkeypatch):
    # submitit pickles Job by its name
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(p) for p in Path(__file__).parents[:2]))
    executor = submitit.LocalExecutor(tmp_path / "log")
    executor.update_parameters(timeout_min=5, signal_delay_s=10)
    program = str(Path(__file__).parents[2] / "train.py")
    job = executor.submit(Job(), str(tmp_path), program, *RUN)
    run = tmp_path / "runs" / "a"
    waited_for(lambda: (run / "samples" / "step_000000.png").is_file())
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)  # as the scheduler does
    waited_for(lambda: (run / "checkpoints" / "last.ckpt").is_file())
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 1 <= saved < 20000
    waited_for(lambda: f"resumed after step {saved}" in job.stderr())
    (run / "stop").touch()
    waited_for(lambda: (run / "results.json").is_file())
    job.result()
    assert saved < results(run)["steps"] < 20000
    assert len(results(run)["continued_by"]) == 1
