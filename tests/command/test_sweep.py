"""Sweeps: a fresh process per job, failures listed, continuing. And several processes in one folder."""

import csv
import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN, results
from PIL import Image

SMALL = [*TINY_MODEL, *TINY_RUN, "data.n=30"]
TWO = ["trainer.devices=2", "trainer.strategy=auto", "trainer.accelerator=cpu"]
TRAIN = [sys.executable, REPOSITORY / "train.py"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def table(folder):
    with open(folder / "summary.csv", newline="") as f:
        return {row["job"]: row for row in csv.DictReader(f)}


@pytest.mark.proof  # starts processes for half a minute
def test_a_job_that_fails_is_listed_and_the_others_run(tmp_path):
    """The rest of what sweeps promise takes minutes: tests/torture/test_sweeps.py."""
    words = [*TRAIN, "-m", *SMALL, "name=lr", "optimizer.lr=-1,1e-4"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    jobs = table(tmp_path / "runs" / "lr")
    assert [row["state"] for row in jobs.values()] == ["failed: exit code 2", "done"]
    assert [p.name for p in (tmp_path / "runs" / "lr").rglob("results.json")] == ["results.json"]


def test_mistakes_in_continuing(run, tmp_path, capfd):
    (tmp_path / "runs" / "there" / "0_seed-1").mkdir(parents=True)
    (tmp_path / "runs" / "there" / "0_seed-1" / "job.json").write_text('{"overrides": ["seed=1"], "exit_code": 0}')
    (tmp_path / "runs" / "there" / "multirun.yaml").write_text("seed: 1\n")
    (tmp_path / "runs" / "there" / "best_one").mkdir()  # renamed by somebody: no job of the sweep any more
    (tmp_path / "runs" / "there" / "best_one" / "job.json").write_text('{"overrides": [], "exit_code": 0}')
    for given, says in (
        (["resume=true"], "resume=true needs the sweep's name: give name=NAME"),
        (["resume=runs/there"], "a sweep continues with name=NAME resume=true"),
        (["name=there"], "runs/there already holds a sweep"),
        (["preflight=only"], "preflight=only describes one run"),
        (["name=there", "resume=true", "optimizer.lr=1"], "results.json is damaged"),
    ):
        if "damaged" in says:
            (tmp_path / "runs" / "there" / "0_seed-1" / "results.json").write_text("{")
        assert run("train", "-m", "seed=1,2", *given) == 2
        error = capfd.readouterr().err
        assert says in error
        assert len(error.strip().splitlines()) == 1
        assert [p.name for p in (tmp_path / "runs").rglob("*.yaml")] == ["multirun.yaml"]
        assert (tmp_path / "runs" / "there" / "multirun.yaml").read_text() == "seed: 1\n"


@pytest.mark.proof  # starts processes for half a minute
def test_processes_of_torchrun_share_a_folder(tmp_path):
    """Though the second reads the clock two seconds later. A sweep under torchrun is refused."""
    late = tmp_path / "late.py"
    late.write_text(
        "import os, runpy, sys, time\n"
        "time.sleep(2 * int(os.environ['LOCAL_RANK']))\n"
        f"sys.argv[0] = {str(REPOSITORY / 'train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", late]
    done = subprocess.run([*torchrun, *SMALL, *TWO], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert results(folder)["steps"] == 4
    assert len(list((folder / "tensorboard").glob("events*"))) == 1
    assert (
        done.stderr.count("validation loss 0") + done.stderr.count("validation loss 1") == 3
    )  # printed by one of them


def test_jobs_that_differ_in_their_seed_are_one_band(tmp_path, monkeypatch):
    from chrysalis.command import sweep
    from chrysalis.evaluation import plots

    for number, (model, seed) in enumerate([("moths", 0), ("moths", 1), ("scratch", 0), ("scratch", 1), ("late", 0)]):
        folder = tmp_path / f"{number}_{model}"
        folder.mkdir()
        code = None if model == "late" else 0
        overrides = ["experiment=transfer", f"model={model}", f"seed={seed}"]
        (folder / "job.json").write_text(json.dumps({"overrides": overrides, "exit_code": code}))
        if code is None:
            continue
        rows = [{"step": step, "ema": 0.3 - 0.001 * step + 0.01 * seed} for step in (0, 50, 100)]
        judged = [{"step": step, "kd": 0.1 - 0.0005 * step} for step in (50, 100)]
        (folder / "history.json").write_text(json.dumps({"validation": rows, "evaluation": judged}))
        results = {"final_val_loss": 0.2, "val_loss": 0.2, "best_step": 100, "seconds": 1}
        (folder / "results.json").write_text(json.dumps(results))
    figures, plain = [], plots.plot_sweep
    monkeypatch.setattr(plots, "plot_sweep", lambda path, groups: figures.append(groups) or plain(path, groups))
    there = sweep.jobs(tmp_path)
    assert sweep._figure(tmp_path, there) == tmp_path / "figure.png"
    assert {name: len(runs) for name, runs in figures[0].items()} == {"model=moths": 2, "model=scratch": 2}
    assert Image.open(tmp_path / "figure.png").size[0] > 1000
    assert sweep._figure(tmp_path, there[:2]) is None
