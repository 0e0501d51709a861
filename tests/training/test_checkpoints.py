"""Checkpoints are complete or absent, two are kept, and a finished run keeps what continuing it needs; a damaged one is
set aside, and nothing is unpickled."""

import errno
import os
import pickle
import shutil
import zipfile
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, results

from chrysalis.command.errors import message
from chrysalis.system import checkpoints, files
from chrysalis.system.errors import UserError
from chrysalis.training.callbacks.checkpoint import Best, CompleteCheckpoints

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "callbacks.checkpoint.every_n_train_steps=1"]
ALL = "callbacks.checkpoint.keep=all"


@pytest.fixture
def begun(trained):
    return trained(*RUN, ALL, "trainer.max_steps=3", "name=a")


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_two_are_kept(begun):
    """Saved after every step and once more at the end: both names hold whole checkpoints."""
    folder = begun / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert [step_of(folder / name) for name in checkpoints.NAMES] == [3, 3]


@pytest.fixture
def best_at_step_2(monkeypatch):
    def update(self, monitor, step, value):
        if step == 2:
            self.step, self.value = 2, 0.0

    monkeypatch.setattr(Best, "update", update)


def test_a_run_that_has_ended_continues_from_what_is_kept(run, tmp_path, best_at_step_2, capfd):
    """To the bit, the weights of an earlier best step included, which are exported again."""
    words = [*RUN[:-1], "callbacks.samples.every_n_train_steps=100", "lr_schedule=constant"]
    assert run("train", *words, ALL, "trainer.max_steps=4", "name=whole") == 0
    assert run("train", *words, "trainer.max_steps=3", "name=part") == 0
    whole, part = (tmp_path / "runs" / name for name in ("whole", "part"))
    folder = part / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    slim = torch.load(folder / "best.ckpt", weights_only=True)
    assert slim.keys() == {"global_step", "callbacks"}
    assert (slim["global_step"], list(slim["callbacks"])) == (2, ["EMA"])
    model = (part / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (folder / "best.ckpt").stat().st_size < 1.3 * model
    assert f"checkpoints/ ({sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.1f} MB)" in capfd.readouterr().err

    assert run("train", "resume=runs/part", "trainer.max_steps=4") == 0
    a, b = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (whole, part))
    assert all(torch.equal(weight, b["state_dict"][name]) for name, weight in a["state_dict"].items())
    assert results(whole)["best_step"] == results(part)["best_step"] == 2
    unet = "pipeline/unet/diffusion_pytorch_model.safetensors"
    assert (whole / unet).read_bytes() == (part / unet).read_bytes()


def test_only_the_last_is_kept_where_it_is_the_best(run, tmp_path, capfd):
    assert run("train", *RUN, "trainer.max_steps=2", "name=a") == 0
    folder = tmp_path / "runs" / "a" / "checkpoints"
    assert [p.name for p in folder.iterdir()] == ["last.ckpt"]
    assert run("train", *RUN, "callbacks.checkpoint.keep=some", "name=b") == 2
    assert "callbacks.checkpoint.keep=some must be last or all; the default is last." in capfd.readouterr().err


def test_a_run_that_was_stopped_keeps_all(run, tmp_path, monkeypatch):
    from chrysalis.training.callbacks.stopping import Stopping

    monkeypatch.setattr(Stopping, "_elapsed", lambda self: 3600.0)
    assert run("train", *RUN, "trainer.max_steps=9", "callbacks.stopping.max_time=00:00:30:00", "name=a") == 0
    folder = tmp_path / "runs" / "a" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_the_one_before_stays_at_every_moment(tmp_path, monkeypatch):
    """Two names, two files; killed before the last move, both are whole and last.ckpt is the older."""
    io, path = CompleteCheckpoints(), tmp_path / "last.ckpt"
    for step in (1, 2):
        io.save_checkpoint({"global_step": step, "w": torch.ones(3)}, path)
    assert (step_of(path), step_of(tmp_path / "previous.ckpt")) == (2, 1)
    plain = os.replace

    def killed(source, target):
        if str(target) == str(path):
            raise KeyboardInterrupt
        plain(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"global_step": 3, "w": torch.ones(3)}, path)
    assert (step_of(path), step_of(tmp_path / "previous.ckpt")) == (2, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def damaged(path, how):
    whole = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "flipped":  # one bit of a tensor
        with zipfile.ZipFile(path) as archive:
            record = max(archive.infolist(), key=lambda info: info.file_size)
        at = record.header_offset + 200 + record.file_size // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    elif how == "other":
        path.write_text("not a checkpoint")


@pytest.mark.parametrize("how", ["empty", "cut", "flipped", "other"])
def test_a_damaged_one_is_set_aside(begun, run, capfd, how):
    last = begun / "checkpoints" / "last.ckpt"
    assert checkpoints.intact(last)
    shutil.copy(last, last.with_name("previous.ckpt"))
    damaged(last, how)
    assert not checkpoints.intact(last)
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 0
    assert "last.ckpt is damaged" in capfd.readouterr().err
    assert (begun / "checkpoints" / "last.ckpt.damaged").is_file()
    assert results(begun)["steps"] == 4


def test_preflight_only_changes_nothing(begun, run):
    """preflight=only may look at a run that continues in another process."""
    last = begun / "checkpoints" / "last.ckpt"
    shutil.copy(last, last.with_name("previous.ckpt"))
    damaged(last, "cut")
    (begun / "checkpoints" / ".last.ckpt.abc.partial").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*")}
    assert run("train", "resume=runs/a", "trainer.max_steps=4", "preflight=only") == 0
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*")} == before


def test_a_damaged_best_one_is_not_exported(begun, run):
    last = begun / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["callbacks"]["Best"]["step"] = 2
    torch.save(state, last)
    torch.save({**state, "global_step": 2}, begun / "checkpoints" / "best.ckpt")
    damaged(begun / "checkpoints" / "best.ckpt", "cut")
    (begun / "results.json").unlink()
    assert run("train", "resume=runs/a") == 0
    assert results(begun)["best_step"] == state["global_step"]


@pytest.mark.parametrize("text", ["a: [1", "seed: 1", "", "[1, 2]"])
def test_a_damaged_configuration_is_refused(begun, run, capfd, text):
    (begun / "config.yaml").write_text(text)
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 2
    assert "runs/a/config.yaml is damaged" in capfd.readouterr().err


def test_two_damaged_checkpoints_are_refused(begun, run, capfd):
    for name in checkpoints.NAMES:
        damaged(begun / "checkpoints" / name, "cut")
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 2
    assert "are damaged" in capfd.readouterr().err


def test_what_a_killed_process_was_writing_goes(begun, run):
    (begun / "checkpoints" / ".last.ckpt.abc.partial").write_bytes(b"half")
    (begun / ".pipeline.xyz.partial").mkdir()
    (begun / ".pipeline.xyz.partial" / "half.bin").write_bytes(b"half")
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 0
    assert not list(begun.rglob(".*"))


def test_nothing_is_unpickled(begun, run, capfd):
    class Harm:
        def __reduce__(self):
            return os.mkdir, ("harmed",)

    last = begun / "checkpoints" / "last.ckpt"
    torch.save({"global_step": 3, "x": Harm()}, last, pickle_module=pickle)
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 2
    assert "last.ckpt is not a checkpoint" in capfd.readouterr().err
    assert not os.path.exists("harmed")


def test_a_full_disk_ends_the_run_with_a_sentence(run, tmp_path, capfd, monkeypatch):
    """A file-size limit stands for the disk: the process may not write beyond it, the kernel says so."""
    import resource

    assert run("train", *RUN, "trainer.max_steps=2", "name=a") == 0
    last = tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt"
    before, limits = last.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        code = run("train", "resume=runs/a", "trainer.max_steps=5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capfd.readouterr().err
    assert code == 2
    assert "ckpt could not be written: " in err
    assert "The checkpoint before it is intact" in err
    assert "Traceback" not in err
    assert last.read_bytes() == before
    assert run("train", "resume=runs/a", "trainer.max_steps=5") == 0


def test_a_disk_that_is_full_elsewhere_is_named():
    if not os.path.exists("/dev/full"):
        pytest.skip("no device that is always full")
    with pytest.raises(OSError, match="No space") as full, open("/dev/full", "w") as f:
        f.write("x" * 100_000)
    assert full.value.filename is None
    assert "The disk is full" in message(full.value, "train")


@pytest.mark.parametrize(("free", "fits"), [(2**20 + 4200, True), (2**20 + 4100, False)])
def test_room_is_looked_at_before_saving(tmp_path, monkeypatch, free, fits):
    """4,026 bytes of tensors, 2 % and a mebibyte; tensors that share a storage count once."""
    state = {"a": torch.zeros(1000), "b": [torch.zeros(10, dtype=torch.uint8)], "c": {"d": torch.zeros(4)}}
    state |= {"view": state["a"][:10], "global_step": 7}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    path = tmp_path / "last.ckpt"
    if fits:
        CompleteCheckpoints().save_checkpoint(state, path)
    else:
        with pytest.raises(UserError, match=r"MB left, and the checkpoint of step 7 takes 0 MB"):
            CompleteCheckpoints().save_checkpoint(state, path)
    assert path.exists() == fits


def test_a_disk_error_names_its_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"last\.ckpt could not be written: No space left on device"):
        CompleteCheckpoints().save_checkpoint({"global_step": 1}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())
