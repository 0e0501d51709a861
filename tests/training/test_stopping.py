"""Ending a run from outside: exit codes, what is left, and that it continues as if nothing had happened."""

import os
import shutil
import signal

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chrysalis.system import terminal
from chrysalis.system.errors import UserError
from chrysalis.training.callbacks import stopping
from chrysalis.training.module import TrainingModule

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "trainer.accumulate_grad_batches=2"]
RUN += ["trainer.max_steps=6", "callbacks.checkpoint.every_n_train_steps=100", "trainer.log_every_n_steps=4"]
RUN += [
    "callbacks.validation.every_n_train_steps=2",
    "callbacks.samples.every_n_train_steps=3",
    "callbacks.samples.n=1",
]


@pytest.fixture
def at(monkeypatch):
    """at(k, act): in the k-th micro-batch of the process, act(module)."""

    def arrange(moment: int, act) -> None:
        seen, plain = [], TrainingModule.training_step

        def step(self, batch, batch_index):
            seen.append(batch_index)
            if len(seen) == moment:
                act(self)
            return plain(self, batch, batch_index)

        monkeypatch.setattr(TrainingModule, "training_step", step)

    return arrange


def sent(signum):
    return lambda module: os.kill(os.getpid(), signum)


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_run(a, b):
    one, other = weights(a), weights(b)
    assert one["global_step"] == other["global_step"]
    assert all(torch.equal(w, other["state_dict"][name]) for name, w in one["state_dict"].items())
    states = [
        {key.split("{")[0]: value for key, value in checkpoint["callbacks"].items()} for checkpoint in (one, other)
    ]
    assert states[0]["Curves"]["history"] == states[1]["Curves"]["history"]
    measured = [state["Validation"]["measured"] for state in states]
    assert [list(losses) for losses in measured] == [list(measured[0])] * 2
    for step, losses in measured[0].items():
        assert all(torch.equal(values, measured[1][step][name]) for name, values in losses.items()), step
    assert all(torch.equal(w, states[1]["EMA"]["ema_weights"][k]) for k, w in states[0]["EMA"]["ema_weights"].items())
    assert results(a)["best_step"] == results(b)["best_step"]
    assert sorted(p.name for p in (a / "samples").iterdir()) == sorted(p.name for p in (b / "samples").iterdir())
    for sheet in (a / "samples").iterdir():
        assert sheet.read_bytes() == (b / "samples" / sheet.name).read_bytes(), sheet.name


def test_a_closed_terminal_saves_unless_nohup_says_otherwise(run, at, tmp_path):
    at(3, sent(signal.SIGHUP))
    assert run("train", *RUN, "name=a") == 143
    assert weights(tmp_path / "runs" / "a")["global_step"] == 2
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stopping._signals()
    finally:
        signal.signal(signal.SIGHUP, before)


# the first micro-batch of steps 1, 3 (where images and a measurement were due before) and the second of step 4
@pytest.mark.parametrize("moment", [1, pytest.param(5, marks=pytest.mark.proof), 8])
def test_a_preempted_run_saves_leaves_and_continues(run, trained, at, tmp_path, monkeypatch, moment):
    whole = trained(*RUN, "name=whole")
    with monkeypatch.context() as once:
        plain = TrainingModule.training_step
        at(moment, sent(signal.SIGTERM))
        assert run("train", *RUN, "name=part") == 143
        once.undo()
        monkeypatch.setattr(TrainingModule, "training_step", plain)
    folder = tmp_path / "runs" / "part"
    assert weights(folder)["global_step"] == (moment + 1) // 2
    assert not (folder / "results.json").exists()
    assert not list(folder.rglob(".*"))
    assert run("train", "resume=runs/part") == 0
    assert_same_run(whole, folder)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_preempted_in_its_last_step_it_is_exported_when_it_continues(run, at, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "training_step", TrainingModule.training_step)
        at(12, sent(signal.SIGTERM))
        assert run("train", *RUN, "name=a", "callbacks.validation.every_n_train_steps=4") == 143
    assert run("train", "resume=runs/a") == 0
    assert results(tmp_path / "runs" / "a")["steps"] == 6
    assert (tmp_path / "runs" / "a" / "pipeline" / "unet").is_dir()


def test_ctrl_c_saves_exports_and_leaves(run, at, tmp_path, capfd):
    at(5, sent(signal.SIGINT))
    assert run("train", *RUN, "name=a") == 130
    figures = results(tmp_path / "runs" / "a")
    assert figures["steps"] == 3
    assert (tmp_path / "runs" / "a" / "pipeline" / "model_index.json").is_file()
    assert "Ctrl-C again" in capfd.readouterr().err


def test_ctrl_c_twice_leaves_now(run, at, tmp_path):
    def twice(module):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at(5, twice)
    assert run("train", *RUN, "name=a", "callbacks.checkpoint.every_n_train_steps=1") == 130
    folder = tmp_path / "runs" / "a"
    assert weights(folder)["global_step"] == 2
    assert not (folder / "results.json").exists()


def test_a_preempted_run_does_not_wait_for_samples(run, trained, tmp_path, monkeypatch):
    """SIGTERM while samples are generated: they are dropped, and generated when the run is resumed."""
    from chrysalis.training.callbacks import samples

    plain = samples.sample

    def slow(*given, **named):
        if weights_exist := (tmp_path / "runs" / "part" / "samples" / "step_000000.png").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        images = plain(*given, **named)
        assert not weights_exist, "sampling continued"
        return images

    whole = trained(*RUN, "name=whole")
    with monkeypatch.context() as patched:
        patched.setattr(samples, "sample", slow)
        assert run("train", *RUN, "name=part") == 143
    folder = tmp_path / "runs" / "part"
    assert weights(folder)["global_step"] == 3
    assert run("train", "resume=runs/part") == 0
    assert_same_run(whole, folder)


@pytest.mark.parametrize(("name", "code", "steps"), [("stop", 0, 3), ("save", 0, 6)])
def test_a_file_in_the_folder_asks_for_it(run, at, tmp_path, name, code, steps, capfd):
    folder = tmp_path / "runs" / "a"

    def touch(module):
        (folder / name).touch()
        if name == "save":
            assert not (folder / "checkpoints" / "last.ckpt").exists()

    at(5, touch)
    assert run("train", *RUN, "name=a", "+callbacks.stopping.poll_seconds=0") == code
    assert results(folder)["steps"] == steps
    assert not (folder / name).exists()
    if name == "save":
        assert "step 3: saved" in capfd.readouterr().err


def test_a_time_limit_ends_after_a_whole_step_and_counts_on(run, tmp_path):
    assert run("train", *RUN, "name=a", "trainer.max_time=00:00:00:00") == 0
    assert results(tmp_path / "runs" / "a")["steps"] == 1
    assert run("train", "resume=runs/a", "trainer.max_time=00:00:00:00") == 0
    assert run("train", "resume=runs/a", "trainer.max_time=null") == 0
    assert results(tmp_path / "runs" / "a")["steps"] == 6


def test_durations():
    assert stopping.Stopping("run", "01:02:03:04").max_seconds == 93784
    assert stopping.Stopping("run", {"minutes": 1.5}).max_seconds == 90
    assert stopping.Stopping("run").max_seconds is None
    for wrong in ("90", "1:2", {"parsecs": 3}):
        with pytest.raises(UserError, match=r"trainer\.max_time"):
            stopping.Stopping("run", wrong)


def test_another_handler_decides_after_saving(run, at, tmp_path):
    """submitit installs its own handlers before the run: SIGUSR1 queues again and exits, SIGTERM is ignored."""
    heard = []

    def queue_again(signum, frame):
        assert weights(tmp_path / "runs" / "a")["global_step"] == 3
        heard.append(signum)
        raise SystemExit(255)

    before = {s: signal.signal(s, h) for s, h in ((signal.SIGUSR1, queue_again), (signal.SIGTERM, lambda *_: None))}
    try:
        at(5, sent(signal.SIGUSR1))
        interrupted = signal.getsignal(signal.SIGINT)
        assert run("train", *RUN, "name=a") == 255
        assert heard == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGINT) is interrupted, "for the next job of this process"
        assert terminal._running == [], "nor does it leave its stage, though no other callback was asked"
        at(3, sent(signal.SIGTERM))
        assert run("train", *RUN, "name=b") == 0
        assert results(tmp_path / "runs" / "b")["steps"] == 6

        def leaves(signum, frame):
            assert weights(tmp_path / "runs" / "c")["global_step"] == 2
            raise SystemExit(7)

        signal.signal(signal.SIGTERM, leaves)
        at(3, sent(signal.SIGTERM))
        assert run("train", *RUN, "name=c") == 7
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_tensorboard_leaves_out_what_was_logged_after_the_checkpoint(run, at, tmp_path):
    def die(module):
        raise KeyError("killed")

    at(9, die)
    every = ["callbacks.checkpoint.every_n_train_steps=2", "trainer.log_every_n_steps=1"]
    assert run("train", *RUN, *every, "name=a") == 1
    folder = tmp_path / "runs" / "a"
    assert weights(folder)["global_step"] == 4
    shutil.copy(folder / "checkpoints" / "previous.ckpt", folder / "checkpoints" / "last.ckpt")  # of step 2
    assert run("train", "resume=runs/a") == 0
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.proof
def test_a_run_can_be_read_and_copied_while_it_continues(run, trained, at, tmp_path, monkeypatch):
    """TensorBoard reads what there is of it, and a copy continues from its newest checkpoint."""
    whole, folder, seen = trained(*RUN, "name=whole"), tmp_path / "runs" / "part", []
    copy, plain = folder.with_name("copy"), TrainingModule.training_step

    def copied(module):
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        seen.extend(event.step for event in events.Scalars("val/loss"))
        shutil.copytree(folder, copy)

    at(5, sent(signal.SIGTERM))  # the first micro-batch of step 3
    assert run("train", *RUN, "name=part") == 143
    monkeypatch.setattr(TrainingModule, "training_step", plain)
    at(5, copied)  # the first of step 6
    assert run("train", "resume=runs/part") == 0
    monkeypatch.setattr(TrainingModule, "training_step", plain)
    assert seen == [0, 2, 4]
    assert run("train", "resume=runs/copy") == 0
    assert_same_run(whole, folder)
    assert_same_run(whole, copy)


def test_the_same_command_again_continues(run, at, tmp_path, monkeypatch, capfd):
    """resume=true begins a run and continues it; what cannot change is refused; SLURM's second start says it itself."""
    monkeypatch.setattr(TrainingModule, "training_step", TrainingModule.training_step)
    assert run("train", *RUN, "name=a", "resume=true", "trainer.max_steps=2") == 0
    assert run("train", *RUN, "name=a", "resume=true", "trainer.max_steps=3") == 0
    assert results(tmp_path / "runs" / "a")["steps"] == 3
    assert run("train", *RUN, "name=a", "resume=true", "optimizer.lr=0.5") == 2
    assert "optimizer.lr=0.5" in capfd.readouterr().err
    assert run("train", *RUN, "name=a", "resume=true", "condition=label") == 2
    assert "condition.label cannot change" in capfd.readouterr().err
    assert run("train", *RUN, "name=a", "resume=true", "+callbacks.ema.what=1") == 2
    assert "callbacks.ema.what cannot change" in capfd.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run("train", *RUN, "name=a") == 0
    assert results(tmp_path / "runs" / "a")["steps"] == 6


def test_a_finished_run_has_nothing_to_do(run, trained, capfd):
    folder = trained(*RUN, "name=whole")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run("train", "resume=whole") == 0
    assert "has trained for 6 steps and is exported: there is nothing to do" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "pipeline" / "model_index.json").unlink()
    assert run("train", "resume=whole") == 0
    assert (folder / "pipeline" / "model_index.json").is_file()
    assert results(folder)["steps"] == 6


def test_without_a_logger(run, tmp_path, capfd):
    assert run("train", *RUN, "name=a", "logger=false", "trainer.max_steps=1") == 0
    assert not (tmp_path / "runs" / "a" / "tensorboard").exists()
    assert "tensorboard" not in capfd.readouterr().err
