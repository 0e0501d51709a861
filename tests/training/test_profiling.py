"""profile=true: a trace that tools read, a table, and the same run to the bit."""

import gzip
import json
import re

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from lightning import Callback, seed_everything

from chrysalis.command import CONF
from chrysalis.denoiser import Denoiser
from chrysalis.training.callbacks.base import find
from chrysalis.training.callbacks.profiling import Profile
from chrysalis.training.callbacks.progress import Clock
from chrysalis.training.module import TrainingModule


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(*callbacks put first) -> the trainer and module after a tiny run in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*first: Callback, steps: int = 8, fails_at: int | None = None):
        GlobalHydra.instance().clear()
        rare = [o.replace("every_n_train_steps=2", "every_n_train_steps=100") for o in TINY_RUN if "max_steps" not in o]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            more = [f"trainer.max_steps={steps}", "trainer.accumulate_grad_batches=2", "data.n=24"]
            cfg = compose("train", [*TINY_MODEL, *rare, *more, f"+hydra.runtime.output_dir={tmp_path}"])
        cfg.run_dir = str(tmp_path)
        seed_everything(0, workers=True, verbose=False)
        data, model = instantiate(cfg.data), instantiate(cfg.model)
        data.setup()
        objective = instantiate(cfg.objective)(model.prediction)
        model.register_objective(objective)
        denoiser = Denoiser(model.unet, model.scheduler, objective)
        module = TrainingModule(denoiser, instantiate(cfg.optimizer), instantiate(cfg.lr_schedule))
        callbacks = [*first, *(instantiate(callback) for callback in cfg.callbacks.values())]
        if fails_at is not None:
            callbacks.append(Fails(fails_at))
        trainer = instantiate(cfg.trainer)(callbacks=callbacks, logger=False)
        trainer.fit(module, datamodule=data)
        return trainer, module

    return run


class Fails(Callback):
    def __init__(self, at: int):
        self.at = at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if trainer.global_step == self.at:
            raise OSError("disk full")


def traced(path) -> list[dict]:
    with gzip.open(path, "rt") as f:
        return json.load(f)["traceEvents"]


class Images(Callback):
    """Counts the images of each optimizer step."""

    def __init__(self):
        self.of_step: dict[int, int] = {}

    def on_train_batch_start(self, trainer, module, batch, batch_index) -> None:
        step = trainer.global_step + 1
        self.of_step[step] = self.of_step.get(step, 0) + len(batch)


@pytest.mark.proof
def test_a_profiled_run_is_the_same_run(train, tmp_path, capfd):
    """The trace holds `steps` optimizer steps of two micro-batches; the weights are as without."""
    _, module = train()
    weights = [p.detach().clone() for p in module.parameters()]
    capfd.readouterr()
    _, module = train(profile := Profile(str(tmp_path), wait=2, warmup=1, steps=3))
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    (file,) = (tmp_path / "profile").iterdir()
    assert file == profile.trace
    assert re.fullmatch(r"^(.*?)(\.\d+)?\.pt\.trace\.json(?:\.gz)?$", file.name)  # tensorboard's profiler plugin
    names = [event.get("name") for event in traced(file)]
    assert sum(str(name).startswith("Optimizer.step#") for name in names) == 3
    err = capfd.readouterr().err
    assert "steps 4 to 6" in err
    assert "aten::convolution_backward" in err
    assert "Self CPU time total" in err
    assert "ui.perfetto.dev" in err
    assert "USDT" not in err


@pytest.mark.parametrize(
    ("wait", "steps", "counted"),
    [
        (0, 1, [4, 5, 6, 7, 8]),
        pytest.param(0, 2, [4, 5, 6, 7, 8], marks=pytest.mark.proof),
        pytest.param(0, 3, [5, 6, 7, 8], marks=pytest.mark.proof),
        pytest.param(2, 3, [7, 8], marks=pytest.mark.proof),
        pytest.param(3, 3, [8], marks=pytest.mark.proof),
        pytest.param(4, 2, [4, 8], marks=pytest.mark.proof),
        pytest.param(4, 10, [4], marks=pytest.mark.proof),
        pytest.param(20, 1, [4, 5, 6, 7, 8], marks=pytest.mark.proof),
    ],
)
def test_what_is_recorded_does_not_count_as_speed(train, tmp_path, wait, steps, counted):
    """Of 8 steps the clock leaves out the first 3 by itself."""
    trainer, _ = train(Profile(str(tmp_path), wait=wait, warmup=1, steps=steps), images := Images())
    assert find(trainer, Clock).images == sum(images.of_step[step] for step in counted)
    assert find(trainer, Clock).seconds > 0


@pytest.mark.parametrize(("wait", "steps"), [(2, 10), (6, 10), (20, 3)])
def test_a_run_that_is_too_short(train, tmp_path, capfd, wait, steps):
    """What was recorded is printed; if there is nothing, a sentence."""
    train(profile := Profile(str(tmp_path), wait=wait, warmup=1, steps=steps), steps=5)
    err = capfd.readouterr().err
    if wait == 2:
        assert "steps 4 to 5" in err
        assert sum(str(event.get("name")).startswith("Optimizer.step#") for event in traced(profile.trace)) == 2
    else:
        assert "ended before a step was recorded" in err
        assert not (tmp_path / "profile").exists()


def test_an_error_while_recording_leaves_nothing_behind(train, tmp_path):
    with pytest.raises(OSError, match="disk full"):
        train(Profile(str(tmp_path), wait=1, warmup=1, steps=4), fails_at=4)
    assert not (tmp_path / "profile").exists()
    with torch.profiler.profile() as profiler:  # which only one at a time can use
        torch.ones(2).sum()
    assert profiler.key_averages()


@pytest.mark.proof
def test_it_waits_for_steps_without_sampling_or_measuring(train, tmp_path):
    class Samples(Callback):
        every_n_train_steps, at = 4, ()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
            step = trainer.global_step
            if step and step % 4 == 0 and step not in self.at:
                self.at = (*self.at, step)
                with torch.profiler.record_function("sampling"):
                    torch.ones(2).sum()

    train(profile := Profile(str(tmp_path), wait=3, warmup=1, steps=2), samples := Samples(), steps=9)
    assert samples.at == (4, 8)
    assert profile.trace.name.startswith("steps_000006_to_000007")
    assert "sampling" not in [event.get("name") for event in traced(profile.trace)]
