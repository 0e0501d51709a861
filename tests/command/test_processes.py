"""Two processes on one machine: equal to one at the same effective batch. More: tests/torture/test_ranks_end.py."""

import os
import subprocess
import sys

import pytest
import torch
import two_processes
from conftest import REPOSITORY, results
from two_processes import finished, weights

from chrysalis.command import arguments

TRAIN = str(REPOSITORY / "train.py")
EVALUATED = ["callbacks.evaluate.n=17", "callbacks.evaluate.every_n_train_steps=4", "callbacks.evaluate.steps=1"]
RUN = [*two_processes.RUN, *EVALUATED]


def started(folder, *overrides, env=None):
    return two_processes.started(folder, *EVALUATED, *overrides, env=env)


def assert_near(folder, other):
    a = weights(folder)["state_dict"]
    for name, w in weights(other)["state_dict"].items():
        torch.testing.assert_close(w, a[name], rtol=1e-6, atol=1e-6)


@pytest.mark.proof  # starts processes for half a minute
def test_two_processes_are_one_with_the_same_effective_batch(run, tmp_path):
    assert run("train", *RUN, "name=one", "data.batch_size=8") == 0
    code, output = finished(started(tmp_path, "name=two", "data.batch_size=4", "trainer.devices=2"))
    assert code == 0, output
    assert_near(tmp_path / "runs" / "one", tmp_path / "runs" / "two")
    one, two = (results(tmp_path / "runs" / name) for name in ("one", "two"))
    assert one["val_loss"] == pytest.approx(two["val_loss"], rel=1e-5)
    assert one["evaluation"]["kd"] == pytest.approx(two["evaluation"]["kd"], rel=1e-2)  # a rounded pixel may differ
    assert len(list((tmp_path / "runs" / "two" / "tensorboard").glob("events*"))) == 1


@pytest.mark.proof  # starts processes for a minute
def test_a_run_that_one_process_began_is_continued_by_two(run, tmp_path):
    assert run("train", *RUN, "name=one", "data.batch_size=8") == 0
    assert run("train", *RUN, "name=both", "data.batch_size=8", "trainer.max_steps=2") == 0
    began = tmp_path / "runs" / "both" / "checkpoints" / "last.ckpt"
    torch.save(weights(tmp_path / "runs" / "both") | {"parts": 2}, began)  # as after running out of memory alone
    resumed = [sys.executable, TRAIN, "resume=runs/both", "trainer.max_steps=4", "trainer.devices=2"]
    code, output = finished(subprocess.Popen(resumed, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
    assert code == 0, output
    assert "data.batch_size=4" in output
    assert_near(tmp_path / "runs" / "one", tmp_path / "runs" / "both")


@pytest.mark.parametrize(("tasks", "program", "named"), [("1", "train", 1), ("2", "train", 1), ("1", "sample", 0)])
def test_a_job_of_slurm_has_its_number_for_a_name(monkeypatch, tasks, program, named):
    """The same job, queued again, then finds its run."""
    for name, value in {"JOB_ID": "77", "STEP_ID": "0", "PROCID": "0", "NTASKS": tasks, "JOB_NAME": "moths"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert arguments.with_common_folder([], program) == ["name=slurm-77-0"] * named
    assert arguments.with_common_folder(["name=mine", "out=mine"], program) == ["name=mine", "out=mine"]
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert arguments.with_common_folder([], program) == []


@pytest.mark.proof  # starts processes
def test_processes_that_need_the_same_images_decode_them_once(tmp_path):
    """Like the ranks of torchrun, which begin together; partial files of a killed process are deleted."""
    script = (
        "import time\n"
        "from chrysalis.data import store\n"
        "from chrysalis.data.synthetic.source import DrawnSource\n"
        "plain = store.decode\n"
        "def slow(*given):\n"
        "    print('decodes', flush=True)\n"
        "    time.sleep(1)\n"
        "    plain(*given)\n"
        "store.decode = slow\n"
        "print(len(store.open_set(DrawnSource('moths', 6), (3, 16, 16), 'crop')))\n"
    )
    env = {**os.environ, "CHRYSALIS_CACHE": str(tmp_path / "cache")}
    both = [subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    output = sorted(process.communicate(timeout=60)[0].split() for process in both)
    assert output == [["6"], ["decodes", "6"]]
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    folder.rename(folder.with_name(f".{folder.name}.killed.partial"))
    subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [folder]
