"""make torture: runs that are interrupted at every step and killed at any moment end as if nothing had happened."""

import signal
import time
from pathlib import Path

import lives
import pytest
from lives import RUN, begin, checkpoint, life, same_weights

from chrysalis import checkpoints

STEPS, KILLS = 24, 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert life(folder, *RUN, "name=a") == 0
    return folder / "runs" / "a"


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_preempted_at_every_step(tmp_path, whole, step):
    """SIGTERM in each of the two micro-batches of each step: two runs at a time, saved after the step that it hit."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    hit = {folder: lives.at_micro_batch(2 * step - 1 + k, signal.SIGTERM) for k, folder in enumerate(folders)}
    assert both(begin(folder, *RUN, "name=a", first=hit[folder]) for folder in folders) == [143, 143], told(tmp_path)
    for folder in folders:
        assert checkpoint(folder / "runs" / "a")["global_step"] == step
        assert not list((folder / "runs" / "a").rglob(".*"))
    assert both(begin(folder, "resume=runs/a") for folder in folders) == [0, 0], told(tmp_path)
    sheet = Path("samples", "step_000021.png")
    for folder in (f / "runs" / "a" for f in folders):
        assert same_weights(checkpoint(whole), checkpoint(folder))
        assert (whole / sheet).read_bytes() == (folder / sheet).read_bytes()


def both(pids) -> list[int]:
    """Exit codes of children that run at the same time."""
    return [lives.code_of(pid) for pid in list(pids)]


def told(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("*/told.txt"))


def test_killed_at_a_hundred_moments(tmp_path):
    """A run that saves every step: never unreadable, never back behind a step that it had saved, and exact."""
    rng, folder, steps, lost = lives.seeded(0), tmp_path / "runs" / "a", [0], 0
    endless = ["trainer.max_steps=1000000", "lr_schedule=constant", "name=a", "resume=true"]
    rare = ["callbacks.held_out.every_n_steps=1000000", "callbacks.pictures.every_n_steps=1000000"]
    began = time.monotonic()
    for _ in range(KILLS):
        pid = lives.begin(tmp_path, *RUN, *endless, *rare)
        assert lives.kill_after(pid, rng.uniform(0.5, 1.7)) == -signal.SIGKILL, (tmp_path / "told.txt").read_text()
        if not checkpoints.any_in(folder):
            assert steps == [0]  # killed before the first step
            continue
        assert checkpoints.intact(folder / "checkpoints" / "last.ckpt")
        steps.append(checkpoint(folder)["global_step"])
        lost += steps[-1] < steps[-2]
    assert lost == 0
    assert len(set(steps)) > KILLS / 3  # most lives got somewhere
    end = f"trainer.max_steps={steps[-1] + 1}"
    assert life(tmp_path, *RUN, *endless[1:], *rare, end) == 0, (tmp_path / "told.txt").read_text()[-2000:]
    alone = ["lr_schedule=constant", "name=b", *rare, "callbacks.checkpoint.every_n_steps=10000"]
    assert life(tmp_path, *RUN, *alone, end) == 0
    assert same_weights(checkpoint(tmp_path / "runs" / "b"), checkpoint(folder))
    print(f"{KILLS} kills in {time.monotonic() - began:.0f} s, {steps[-1]} steps reached, {lost} lost")
    assert "Traceback" not in (tmp_path / "told.txt").read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_random_moments(tmp_path, signum):
    """Also while it measures, draws, saves and exports: it ends as it should, or had ended; nothing half written."""
    rng, often = lives.seeded(1), ["callbacks.held_out.every_n_steps=3", "callbacks.pictures.every_n_steps=3"]
    for i in range(15):
        pid = lives.begin(tmp_path, *RUN, *often, f"name=r{i}")
        folder = tmp_path / "runs" / f"r{i}"
        while not (folder / "first_pictures.png").exists():
            time.sleep(0.02)
        code = lives.kill_after(pid, rng.uniform(0.05, 1.5), signum)
        told = (tmp_path / "told.txt").read_text()
        assert code in (0, 128 + signum), (code, told[-2000:])
        assert "Traceback" not in told
        assert not [p for p in folder.rglob(".*") if p.suffix == ".partial"]
        if (folder / "checkpoints").exists():
            assert all(checkpoints.intact(p) for p in (folder / "checkpoints").glob("*.ckpt"))
