"""Sweeps: a fresh process per job, what ends one job or all of them, and continuing."""

import csv
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN, results

SMALL = [*TINY_MODEL, *TINY_RUN, "data.n=30"]
LONG = [*TINY_MODEL, *TINY_RUN, "data.n=30", "trainer.max_steps=150", "trainer.log_every_n_steps=20"]
LONG += ["callbacks.validation.every_n_train_steps=150", "callbacks.samples.every_n_train_steps=150", "name=long"]
LONG += ["callbacks.checkpoint.every_n_train_steps=10"]
SWEEP_FILES = ("summary.csv", "figure.png", "multirun.yaml")  # written anew each time
TWO = ["trainer.devices=2", "trainer.strategy=auto", "trainer.accelerator=cpu"]
TRAIN = [sys.executable, REPOSITORY / "train.py"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def table(folder):
    with open(folder / "summary.csv", newline="") as f:
        return {row["job"]: row for row in csv.DictReader(f)}


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def steps_begun(folder):
    """Whether the job there trains: its first checkpoint is written at step 10 of 150."""
    return (folder / "checkpoints" / "last.ckpt").is_file()


def children(process):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def test_each_job_of_two_processes_is_one_run(tmp_path):
    """Processes relaunched as sweeps, or with another launcher's environment, would not end in two runs."""
    foreign = {"MASTER_PORT": "1", "PL_GLOBAL_SEED": "7", "WORLD_SIZE": "5", "NODE_RANK": "0"}
    words = [*TRAIN, "-m", *SMALL, *TWO, "name=pairs", "optimizer.lr=1e-5,3e-5"]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **foreign}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "pairs"
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"pairs"}
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"0_lr-1e-05", "1_lr-3e-05"}
    for name, row in table(folder).items():
        r = results(folder / name)
        assert row["state"] == "done"
        assert float(row["best val_loss"]) == pytest.approx(r["val_loss"], abs=1e-5)
        assert len(list((folder / name / "tensorboard").glob("events*"))) == 1
        words = shlex.split(r["command"])
        assert words[:2] == ["python", "train.py"]
        given = {*SMALL, *TWO, *row["overrides"].split()[-1:]}
        assert {word.lower() for word in words[2:]} == {word.lower() for word in given}  # Hydra says False for false
    assert results(folder / "0_lr-1e-05")["val_loss"] != results(folder / "1_lr-3e-05")["val_loss"]
    assert "Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr
    assert done.stderr.index("also in runs/pairs/summary.csv") > done.stderr.rindex("job 1:")


def test_a_sweep_is_stopped_and_continued(tmp_path):
    """By Ctrl-C in a terminal, a killed job, SIGTERM; then to its end, in another order and with a further value."""
    folder = tmp_path / "runs" / "long"
    first, second, third = (folder / name for name in ("0_lr-0.0001", "1_lr-0.0003", "2_lr-0"))
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
        os.chdir(tmp_path)
        os.execv(sys.executable, [str(w) for w in (*TRAIN, "-m", *LONG, "optimizer.lr=1e-4,3e-4")])
    seen, sent = b"", False
    while True:
        try:
            seen += os.read(terminal, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not sent and steps_begun(first):
            sent = os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert "━".encode() in seen  # a progress bar, for which the job needs the terminal
    assert b"finishing after this step" in seen
    assert table(folder)["0_lr-0.0001"]["state"] == "stopped"
    assert results(first)["steps"] < 150
    assert not second.exists()

    again = [*TRAIN, "-m", "resume=true", "optimizer.lr=3e-4,1e-4", *LONG]
    sweep = subprocess.Popen(again, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: (second / "config.yaml").is_file())
    os.kill(wait_for(lambda: children(sweep))[0], signal.SIGKILL)
    wait_for(lambda: '"exit_code": null' in (first / "job.json").read_text())
    time.sleep(2)  # somewhere between the start of the process and its training
    sweep.send_signal(signal.SIGTERM)
    error = sweep.communicate()[1]
    assert sweep.returncode == 143, error
    assert table(folder)["0_lr-0.0001"]["state"] == "stopped"
    assert table(folder)["1_lr-0.0003"]["state"] == "failed: killed by SIGKILL"

    again[again.index("optimizer.lr=3e-4,1e-4")] = "optimizer.lr=3e-4,0,1e-4"
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    rows = table(folder)
    assert [row["state"] for row in rows.values()] == ["done", "done", "failed: exit code 2"]
    assert results(first)["steps"] == results(second)["steps"] == 150
    assert results(first)["continued_by"][-1] == "python train.py resume=runs/long/0_lr-0.0001"
    assert not (third / "config.yaml").exists()

    again[again.index("optimizer.lr=3e-4,0,1e-4")] = "optimizer.lr=1e-4,3e-4"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name not in SWEEP_FILES}
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" is done already: runs/long/") == 2
    assert {p: t for p, t in before.items() if p.is_file()}.items() <= {p: p.stat().st_mtime_ns for p in before}.items()
