"""The preflight: every number against one counted, weighed or computed otherwise; the run is unchanged by it."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, tiny_unet
from diffusers import DDPMScheduler
from lightning import Trainer
from rich.console import Console

from chrysalis.data import pixels
from chrysalis.data.sources.drawn import drawn_data
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.models.model import Model
from chrysalis.models.pixel_unet import PixelUNet
from chrysalis.system import memory
from chrysalis.system.errors import UserError
from chrysalis.training import memory_estimate
from chrysalis.training.batch_size import step_cost
from chrysalis.training.callbacks.checkpoint import Best
from chrysalis.training.callbacks.sample_evaluation import SampleEvaluation
from chrysalis.training.callbacks.samples import Samples
from chrysalis.training.callbacks.stopping import Stopping
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.module import TrainingModule
from chrysalis.training.preflight import base_loss, table
from chrysalis.training.preflight.check import check
from chrysalis.training.preflight.plan import Plan

DATA = ["data.n=30"]


@pytest.fixture
def plan(tmp_path):
    """plan(prediction, accumulate=..., **trainer): a tiny run of 30 drawn butterflies in micro-batches of 4."""

    def make(prediction="epsilon", origin="somewhere", unet=None, batch_size=4, accumulate=1, **trainer) -> Plan:
        unet, scheduler = unet or tiny_unet(), DDPMScheduler(prediction_type=prediction)
        denoiser = Denoiser(unet, scheduler, objective(prediction))
        constant = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0)
        module = TrainingModule(denoiser, torch.optim.AdamW, lambda optimizer, total_steps: constant(optimizer))
        data = drawn_data(n=30, image_size=16, batch_size=batch_size)
        data.setup()
        callbacks = [Validation(2, n_images=2, timesteps=2), Samples(str(tmp_path), 2, n=2, steps=2)]
        callbacks += [SampleEvaluation(str(tmp_path), lambda: None, n=0), Best(), Stopping(str(tmp_path))]
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        trainer = {"max_steps": 4, **trainer}
        trainer = Trainer(callbacks=callbacks, accumulate_grad_batches=accumulate, **quiet, **trainer)
        return Plan(Model(unet, scheduler, origin, family=PixelUNet()), data, module, trainer, tmp_path / "runs" / "a")

    return make


def weights(folder):
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    ema = next(state for key, state in saved["callbacks"].items() if key.startswith("EMA"))["ema_weights"]
    return saved["state_dict"] | {f"average {name}": w for name, w in ema.items()}


def test_an_unknown_value_is_refused(run, capfd, tmp_path):
    assert run("train", "preflight=x") == 2
    assert "preflight=x" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_only_prints_everything_and_leaves_nothing(run, capfd, tmp_path):
    assert run("train", *TINY_MODEL, *DATA, *TINY_RUN, "name=a", "preflight=only") == 0
    err = capfd.readouterr().err
    for row in ("model", "data", "base loss", "training", "time", "memory", "disk"):
        assert f"│ {row} " in err
    assert "4 steps of 4 images" in err
    assert "hardly better" not in err, "a new model is untrained"
    assert not list(tmp_path.iterdir())


def test_a_run_is_the_same_to_the_bit_without_it(run, tmp_path, model_folder, capfd):
    same = [
        f"model.pretrained={model_folder}",
        "data.image_size=16",
        *DATA,
        *TINY_RUN,
        "preflight=true",
        "trainer.precision=32-true",
    ]
    assert run("train", *same, "name=with") == 0
    assert "hardly better than predicting zeros" in " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert run("train", *same, "name=without", "preflight=false") == 0
    assert "What this run will do" not in capfd.readouterr().err
    a, b = weights(tmp_path / "runs" / "with"), weights(tmp_path / "runs" / "without")
    assert set(a) == set(b)
    assert all(torch.equal(weight, b[name]) for name, weight in a.items())


def test_nothing_of_a_run_is_changed(plan, capfd):
    run = plan("v_prediction")
    before, state = {k: v.clone() for k, v in run.module.state_dict().items()}, torch.get_rng_state()
    assert check(run, True)
    assert not check(run, "only")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], weight) for name, weight in run.module.state_dict().items())
    assert not run.folder.exists()


def test_other_processes_print_nothing(plan, capfd, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert check(plan(), True)
    assert not check(plan(), "only")
    assert capfd.readouterr().err == ""


def test_a_continued_run_is_not_measured_again(run, tmp_path, capfd):
    assert run("train", *TINY_MODEL, *DATA, *TINY_RUN, "preflight=true", "name=a", "trainer.max_steps=2") == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")}
    capfd.readouterr()
    assert run("train", "resume=runs/a", "trainer.max_steps=6", "preflight=only") == 0
    err = capfd.readouterr().err
    assert "measured when the run began" in err
    assert "6 steps" in err
    assert "all zeros" not in err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")} == before


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_losses_are_those_of_diffusers_and_of_the_target_alone(plan, prediction):
    """Each triple by hand: diffusers' add_noise and get_velocity, the noise from a generator of its own."""
    run = plan(prediction)
    found = base_loss.measure(run)
    batch, scheduler, unet = run.data.validation_batch(4), run.model.scheduler, run.model.unet.eval()
    ours, nothing = [], []
    for j, t in enumerate(torch.tensor([62, 187, 312, 437, 562, 687, 812, 937])):
        for image, content in zip(batch.image, batch.key.tolist(), strict=True):
            x0 = (image.float() / 127.5 - 1)[None]
            generator = torch.Generator().manual_seed(seeds.key(0, "held out", content, j))
            eps = torch.randn(1, 3, 16, 16, generator=generator)
            velocity = scheduler.get_velocity(x0, eps, t[None])
            target = {"epsilon": eps, "sample": x0, "v_prediction": velocity}[prediction]
            with torch.no_grad():
                out = unet(scheduler.add_noise(x0, eps, t[None]), t).sample
            ours.append((out - target).square().mean())
            nothing.append(target.square().mean())
    n = len(batch.image)
    torch.testing.assert_close(found.loss, torch.stack(ours).view(8, n).mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.zeros, torch.stack(nothing).view(8, n).mean(1), rtol=1e-4, atol=1e-5)
    assert found.seconds_per_pass > 0


def measured_as(loss, nothing) -> base_loss.BaseLoss:
    timesteps = [1000 * i // len(loss) for i in range(len(loss))]
    return base_loss.BaseLoss(timesteps, torch.tensor(loss), torch.tensor(nothing), 0.1, 1)


def test_a_base_model_is_doubted_where_it_is_no_better_than_zeros():
    assert measured_as([0.1, 0.05], [1.0, 1.0]).warning("epsilon") is None
    assert measured_as([0.2, 0.9], [1.0, 0.25]).warning("v_prediction") is None, "brighter images than in training"
    assert "hardly better" in measured_as([0.95, 0.9], [1.0, 1.0]).warning("epsilon")
    assert "hardly better" in measured_as([float("nan"), 0.1], [1.0, 1.0]).warning("epsilon")
    assert "timestep 500" in measured_as([0.1, 1.2], [1.0, 1.0]).warning("epsilon")
    assert "timestep 250" in measured_as([0.1, 1.2, 0.1, 0.1], [1.0] * 4).warning("sample")


def test_forward_passes_are_those_of_a_run(plan, run):
    """Counted by a hook on every UNet call of a real run: a training step has one, and its backward pass is as two."""
    seen = []

    def count(module, given) -> None:
        if type(module).__name__ == "UNet2DModel":
            seen.append(len(given[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        assert run("train", *TINY_MODEL, *DATA, *TINY_RUN, "name=a", "preflight=false") == 0
    finally:
        hook.remove()
    training, beside = plan().forward_passes(conditions=1)
    assert training == 3 * 4 * 4
    assert sum(seen) == training / 3 + beside


def test_steps_and_epochs(plan):
    run = plan(accumulate=3, max_steps=-1, max_epochs=2)
    assert run.steps_per_epoch == len(range(0, len(run.data.train_rows), 4 * 3))
    assert run.steps == 2 * run.steps_per_epoch
    assert "of 12 images (4 at once x 3 micro-batches): 2.0 epochs" in table.training_row(run)
    assert plan(max_steps=-1, max_epochs=-1).steps is None
    assert "until it is stopped" in table.training_row(plan(max_steps=-1, max_epochs=-1))
    assert plan(max_epochs=100).steps == 4


def test_the_disk_that_a_run_takes(plan, run, tmp_path):
    """Estimated from weights alone, weighed as files, before those go that a run which has ended does not need."""
    wide = ["model=scratch", "model.block_out_channels=[48,64]", "model.layers_per_block=2", "data.image_size=16"]
    assert run("train", *wide, *DATA, *TINY_RUN, "callbacks.checkpoint.keep=all", "name=b") == 0
    folder = tmp_path / "runs" / "b"
    unet = tiny_unet(block_out_channels=(48, 64), layers_per_block=2, norm_num_groups=16)
    planned = plan(unet=unet)
    size = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert {"checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt"} <= set(size)
    assert planned.checkpoint_bytes == pytest.approx(size["checkpoints/last.ckpt"], rel=0.1)
    at_most = sum(size.values()) + size["checkpoints/last.ckpt"]
    needed = planned.disk_bytes
    assert needed == pytest.approx(at_most, rel=0.1)
    planned.half = True
    assert needed - planned.disk_bytes == 2 * sum(p.numel() for p in unet.parameters())


def test_a_disk_that_is_too_full_is_refused_before_anything_is_written(plan, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run = plan()
    run.module.denoiser.unet.huge = torch.nn.Parameter(torch.empty(10**13, device="meta"))
    needed = 4 * (4 + 4 + 8) * 10**13 + 4 * 10**13
    with pytest.raises(UserError, match=rf"^runs/a needs about {needed / 1e12:.1f} TB .* [\d.]+ [MGT]B are free there"):
        run.require_room()
    assert not list(tmp_path.iterdir())


def test_values_of_the_images(plan):
    run = plan()
    rows = run.data.train_rows  # fewer than are looked at: all of them
    seen = run.data.image_set.images[rows].astype(np.float64)
    red, green, _ = seen.mean(axis=(0, 2, 3))
    text = table.data_row(run)
    assert f"values from {seen.min():.0f} to {seen.max():.0f}, on average red {red:.0f}, green {green:.0f}" in text
    signed = pixels.to_signed(torch.from_numpy(run.data.image_set.images[rows])).mean(dim=(0, 2, 3)).tolist()
    assert text.endswith("on average red {:z.2f}, green {:z.2f}, blue {:z.2f}".format(*signed))


def test_a_step_that_does_not_fit_in_memory(plan):
    """A step of 1 GB an image with 20 % margin: 5 GB hold four images, 0.5 GB none."""
    run = plan(batch_size=8, accumulate=2)
    cost = memory_estimate.Cost(fixed=0, per_image=10**9)
    assert table.advice(run, None, cost, free=10 * 10**9) == []
    (text,) = table.advice(run, None, cost, free=5 * 10**9)
    assert "data.batch_size=4 trainer.accumulate_grad_batches=4 fits" in text
    assert "data.batch_size=auto data.effective_batch=16" in text
    assert "data.image_size" in table.advice(run, None, cost, free=5 * 10**8)[0]
    run.resumed = True
    assert table.advice(run, None, cost, free=5 * 10**9) == [], "a continued run keeps its batch size"


def test_compiling_is_advised_where_it_pays(plan):
    """90 s of compiling against a tenth of the time on a CPU, a quarter on a GPU: worth it from a third on."""
    run = plan(max_steps=100)  # of 4 images, three forward passes each

    def advised(seconds, device):
        run.device = torch.device(device)
        found = base_loss.BaseLoss([], torch.ones(1), torch.ones(1), seconds_per_pass=seconds / 1200, conditions=1)
        return table.advice(run, found, None, free=0)

    assert advised(2699, "cpu") == []
    assert advised(3300, "cpu") == ["compile=true would make the run about 4 min shorter."], "330 s less 90 s"
    assert advised(2520, "cuda") == ["compile=true would make the run about 9 min shorter."], "630 s less 90 s"
    assert advised(10**6, "mps") == []
    run.compiled = True
    assert advised(10**6, "cpu") == []


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_a_terminal(plan, columns):
    run = plan()
    console = Console(width=columns, record=True, file=io.StringIO())
    console.print(
        table.table(
            run, base_loss.measure(run), step_cost(run.module, run.trainer, run.data.size), memory.free(run.device)
        )
    )
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)


def test_the_loss_row_names_its_number_of_images(plan):
    """The run measures two, at two timesteps; then four, at eight."""
    run = plan(origin=None)
    console = Console(width=200, file=io.StringIO())
    console.print(table.loss_row(run, base_loss.measure(run)))
    text = "on 4 validation images, 8 timesteps; val/loss is the mean over 2 validation images, 2 timesteps"
    assert text in console.file.getvalue()
    run.validation.n_images, run.validation.timesteps = 4, 8
    console.print(table.loss_row(run, base_loss.measure(run)))
    assert console.file.getvalue().splitlines()[-1].strip() == "on 4 validation images, 8 timesteps"


def test_a_run_without_an_end_keeps_to_the_budget(plan):
    """A step of 4 images is 12 passes. Every 2 steps 8 passes of validation and 4 of sampling are half as many: more
    than a sixth. 8 every 16 steps and 4 every 4 are an eighth."""
    run = plan(max_steps=-1, max_epochs=-1)
    run.keep_to_budget(1.0, conditions=1)
    assert run.coarser == {"callbacks.validation.every_n_train_steps": 16, "callbacks.samples.every_n_train_steps": 4}
    assert "coarser to save time: callbacks.validation.every_n_train_steps=16" in table.measuring_row(run)


def test_a_time_limit_is_planned_for(plan):
    """1,200 s at 12 s a step: 100 steps, of which a sixth may be measured; 300 s a step: 45 s for the one that is."""
    run = plan(max_steps=-1, max_epochs=-1)
    run.stopping.max_seconds = 1200.0
    assert run.expected_steps(1.0) == 100
    assert run.expected_steps(1000.0) == 1
    run.keep_to_budget(1.0, conditions=1)
    assert sum(run.measuring.forward_passes(100)) <= 200
    bounded = plan(max_steps=40)
    bounded.stopping.max_seconds = 1200.0
    assert bounded.expected_steps(1.0) == 40


def test_all_processes_follow_the_plan_of_the_first(plan):
    first, second = plan(), plan()
    first.apply({"callbacks.validation.n_images": 1})

    class Strategy:
        """A strategy that brings the first process's value."""

        @staticmethod
        def broadcast(own):
            assert own == {}
            return first.coarser

    trainer = type("Trainer", (), {"strategy": Strategy})
    second.setup(trainer, second.module, "fit")
    assert second.validation.n_images == 1


def test_durations():
    assert [table.duration(s) for s in (7.4, 99, 120, 7260)] == ["7 s", "99 s", "2 min", "2 h 1 min"]
