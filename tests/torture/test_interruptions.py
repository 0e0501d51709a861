"""make torture: runs that are interrupted at every step and killed at any moment end like uninterrupted ones."""

import signal
import time
from pathlib import Path

import lives
import pytest
from lives import RUN, begin, checkpoint, life, same_weights

from chrysalis.system import checkpoints

STEPS, KILLS = 24, 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert life(folder, *RUN, "name=a") == 0
    return folder / "runs" / "a"


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_preempted_at_every_step(tmp_path, whole, step):
    """SIGTERM in each of the two micro-batches of each step: two runs at a time, each saves after the step."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    hit = {folder: lives.at_micro_batch(2 * step - 1 + k, signal.SIGTERM) for k, folder in enumerate(folders)}
    assert both(begin(folder, *RUN, "name=a", first=hit[folder]) for folder in folders) == [143, 143], output(tmp_path)
    for folder in folders:
        assert checkpoint(folder / "runs" / "a")["global_step"] == step
        assert not list((folder / "runs" / "a").rglob(".*"))
    assert both(begin(folder, "resume=runs/a") for folder in folders) == [0, 0], output(tmp_path)
    sheet = Path("samples", "step_000021.png")
    for folder in (f / "runs" / "a" for f in folders):
        assert same_weights(checkpoint(whole), checkpoint(folder))
        assert (whole / sheet).read_bytes() == (folder / sheet).read_bytes()


def both(pids) -> list[int]:
    """Exit codes of processes that run at the same time."""
    return [lives.code_of(pid) for pid in list(pids)]


def output(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("*/output.txt"))


def test_killed_at_a_hundred_moments(tmp_path):
    """Two runs that save every step stay readable, never lose a saved step, and end bit-identical."""
    rng, lanes = lives.seeded(0), [Lane(tmp_path / name) for name in ("first", "second")]
    began = time.monotonic()
    for _ in range(KILLS // len(lanes)):
        moments = sorted(rng.uniform(0.5, 1.7) for _ in lanes)
        pids = [begin(lane.folder, *RUN, *lane.endless) for lane in lanes]
        for pid, lane, wait in zip(pids, lanes, (moments[0], moments[1] - moments[0]), strict=True):
            assert lives.kill_after(pid, wait) == -signal.SIGKILL, output(tmp_path)
            lane.look()
        lanes.reverse()
    steps = [lane.steps[-1] for lane in lanes]
    seen = {(k, step) for k, lane in enumerate(lanes) for step in lane.steps}
    assert len(seen) > KILLS / 3  # most lives got somewhere
    ends = [f"trainer.max_steps={step + 1}" for step in steps]
    rest = (begin(lane.folder, *RUN, *lane.endless[1:], end) for lane, end in zip(lanes, ends, strict=True))
    assert both(rest) == [0, 0], output(tmp_path)[-2000:]
    alone = ["name=alone", "resume=null", "callbacks.checkpoint.every_n_train_steps=10000"]
    whole = (begin(lane.folder, *RUN, *lane.endless[1:], *alone, end) for lane, end in zip(lanes, ends, strict=True))
    assert both(whole) == [0, 0], output(tmp_path)[-2000:]
    for lane in lanes:
        assert same_weights(checkpoint(lane.folder / "runs" / "alone"), checkpoint(lane.run))
    print(f"{KILLS} kills in {time.monotonic() - began:.0f} s, {sum(steps)} steps reached, 0 lost")
    assert "Traceback" not in output(tmp_path)


class Lane:
    """A run that is killed and resumed, in a folder of its own."""

    endless = ("trainer.max_steps=1000000", "lr_schedule=constant", "name=a", "resume=true")
    endless += ("callbacks.validation.every_n_train_steps=1000000", "callbacks.samples.every_n_train_steps=1000000")

    def __init__(self, folder: Path):
        self.folder, self.run, self.steps = folder, folder / "runs" / "a", [0]
        folder.mkdir()

    def look(self) -> None:
        """Check the checkpoints after a kill."""
        if not checkpoints.any_in(self.run):
            assert self.steps == [0]  # killed before the first step
            return
        assert checkpoints.intact(self.run / "checkpoints" / "last.ckpt")
        step = checkpoint(self.run)["global_step"]
        assert step >= self.steps[-1], f"step {self.steps[-1]} was saved, and {step} is there"
        self.steps.append(step)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_random_moments(tmp_path, signum):
    """A run ends as it should and leaves no partial file, also during validation, sampling, saving and export."""
    rng, often = (
        lives.seeded(1),
        ["callbacks.validation.every_n_train_steps=3", "callbacks.samples.every_n_train_steps=3"],
    )
    for i in range(15):
        pid = lives.begin(tmp_path, *RUN, *often, f"name=r{i}")
        folder = tmp_path / "runs" / f"r{i}"
        while not (folder / "training_images.png").exists():
            time.sleep(0.02)
        code = lives.kill_after(pid, rng.uniform(0.05, 1.5), signum)
        output_ = (tmp_path / "output.txt").read_text()
        assert code in (0, 128 + signum), (code, output_[-2000:])
        assert "Traceback" not in output_
        assert not [p for p in folder.rglob(".*") if p.suffix == ".partial"]
        if (folder / "checkpoints").exists():
            assert all(checkpoints.intact(p) for p in (folder / "checkpoints").glob("*.ckpt"))
