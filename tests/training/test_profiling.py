"""profile=true: a trace that tools read, a table, and a run that is the same to the bit."""

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
from chrysalis.system.errors import UserError
from chrysalis.training.callbacks.clock import Clock, of
from chrysalis.training.callbacks.profiling import Profile, costs, in_words
from chrysalis.training.module import FineTuning


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
        module = FineTuning(denoiser, instantiate(cfg.optimizer), instantiate(cfg.lr_schedule))
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
    """How many belong to each optimizer step."""

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
    told = capfd.readouterr().err
    assert "steps 4 to 6" in told
    assert "convolutions, backward" in told
    assert "ui.perfetto.dev" in told
    assert "USDT" not in told


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
    assert of(trainer, Clock).images == sum(images.of_step[step] for step in counted)
    assert of(trainer, Clock).seconds > 0


@pytest.mark.parametrize(("wait", "steps"), [(2, 10), (6, 10), (20, 3)])
def test_a_run_that_is_too_short(train, tmp_path, capfd, wait, steps):
    """What was recorded is told; if that is nothing, so is that."""
    train(profile := Profile(str(tmp_path), wait=wait, warmup=1, steps=steps), steps=5)
    told = capfd.readouterr().err
    if wait == 2:
        assert "steps 4 to 5" in told
        assert sum(str(event.get("name")).startswith("Optimizer.step#") for event in traced(profile.trace)) == 2
    else:
        assert "ended before a step was recorded" in told
        assert not (tmp_path / "profile").exists()


def test_an_error_while_recording_leaves_nothing_behind(train, tmp_path):
    with pytest.raises(OSError, match="disk full"):
        train(Profile(str(tmp_path), wait=1, warmup=1, steps=4), fails_at=4)
    assert not (tmp_path / "profile").exists()
    with torch.profiler.profile() as profiler:  # which only one at a time can use
        torch.ones(2).sum()
    assert profiler.key_averages()


@pytest.mark.proof
def test_it_waits_for_steps_without_drawing_or_measuring(train, tmp_path):
    class Draws(Callback):
        every_n_train_steps, at = 4, ()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
            step = trainer.global_step
            if step and step % 4 == 0 and step not in self.at:
                self.at = (*self.at, step)
                with torch.profiler.record_function("a drawing"):
                    torch.ones(2).sum()

    train(profile := Profile(str(tmp_path), wait=3, warmup=1, steps=2), draws := Draws(), steps=9)
    assert draws.at == (4, 8)
    assert profile.trace.name.startswith("steps_000006_to_000007")
    assert "a drawing" not in [event.get("name") for event in traced(profile.trace)]


def test_costs_are_a_steps_and_add_up():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        x = torch.randn(2, 4, 8, 8, requires_grad=True)
        for _ in range(2):
            torch.nn.functional.conv2d(x, torch.ones(4, 4, 3, 3)).sum().backward()
    found = {cost.name: cost for cost in costs(profiler.key_averages(), 2, 10.0, False)}
    assert found["convolutions, backward"].ms > 0
    assert sum(cost.share for cost in found.values()) == pytest.approx(1)
    assert sum(cost.ms for cost in found.values()) == pytest.approx(5000)
    assert found["Python between operators"].share > 0.5


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("aten::mkldnn_convolution", "convolutions, forward"),
        ("aten::cudnn_convolution", "convolutions, forward"),
        ("aten::convolution_backward", "convolutions, backward"),
        ("aten::native_group_norm_backward", "normalisation"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::addmm", "matrix products"),
        ("aten::_fused_adamw_", "optimizer and averages"),
        ("aten::silu_backward", "elementwise arithmetic"),
        ("aten::addcmul", "elementwise arithmetic"),
        ("aten::copy_", "copies and casts"),
        ("aten::_local_scalar_dense", "waiting for the device"),
        ("aten::something_new", "something_new"),
    ],
)
def test_operators_in_words(operator, words):
    assert in_words(operator) == words


@pytest.mark.parametrize(("key", "value"), [("steps", 0), ("wait", -1), ("warmup", 0)])
def test_numbers_that_cannot_be(tmp_path, key, value):
    with pytest.raises(UserError, match=f"profiling.{key}={value}"):
        Profile(str(tmp_path), **{key: value})
