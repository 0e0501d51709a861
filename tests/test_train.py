"""Whole runs on tiny real objects: exact accumulation, exact continuation, what a run leaves behind."""

import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, results
from diffusers import DDPMPipeline
from lightning import Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chrysalis.data.loaders import BatchDataset, Order, loader
from chrysalis.data.sources.drawn import drawn_data
from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.diffusion import seeds
from chrysalis.models import scratch
from chrysalis.training.logger import RunLogger
from chrysalis.training.module import TrainingModule

DATA = ["data.n=30"]


def trained_by_sgd(denoiser, n, batch_size, accumulate, steps):
    """Weights after plain SGD through Lightning, from the given start."""
    data = drawn_data(n=n, image_size=16, batch_size=batch_size, flip=True)
    module = TrainingModule(
        copy.deepcopy(denoiser),
        lambda params: torch.optim.SGD(params, lr=0.1),
        lambda optimizer, total_steps: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    )
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == steps
    return module, data


def assert_same_weights(a, b, rtol=1e-4, atol=1e-6):
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def test_two_of_four_are_one_of_eight(denoiser):
    accumulated, _ = trained_by_sgd(denoiser, 40, batch_size=4, accumulate=2, steps=3)
    whole, _ = trained_by_sgd(denoiser, 40, batch_size=8, accumulate=1, steps=3)
    assert_same_weights(accumulated, whole)


def test_a_short_last_window_is_averaged_over_what_it_holds(denoiser):
    """One epoch in micro-batches of 4 accumulated by 3, against autograd and SGD written out."""
    module, data = trained_by_sgd(denoiser, 30, batch_size=4, accumulate=3, steps=2)
    n = len(data.train_rows)
    assert n % 12 not in (0, 4, 8), "the last window has to end in a short micro-batch"

    by_hand = copy.deepcopy(denoiser).train()
    order = data.train_rows[seeds.permutation(n, 0, "order", 0).numpy()]
    batches = list(loader(BatchDataset(data.image_set, flip=True), Order(data.train_rows, 4, seed=0)))
    images = {int(row): image for b in batches for row, image in zip(b.row, b.image, strict=True)}
    u = seeds.low_discrepancy(n, 0, "timesteps", 0)
    for start in range(0, n, 12):
        rows = order[start : start + 12]
        x0 = torch.stack([images[int(r)] for r in rows]).float() / 255 * 2 - 1
        t = (u[start : start + 12] * 1000).long()
        keys = [seeds.key(0, "noise", 0, int(r)) for r in rows]
        eps = torch.stack([torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in keys])
        x_t = by_hand.scheduler.add_noise(x0, eps, t)
        loss = torch.nn.functional.mse_loss(by_hand.unet(x_t, t).sample, eps)
        by_hand.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= 0.1 * p.grad
    assert_same_weights(module.denoiser, by_hand)


@pytest.fixture
def tiny_run(trained):
    def go(name, *overrides):
        data = [] if any(o.startswith("data=") for o in overrides) else DATA
        return trained(*TINY_MODEL, *data, *TINY_RUN, f"name={name}", "trainer.precision=32-true", *overrides)

    return go


def checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def ema_of(ckpt):
    return next(state for key, state in ckpt["callbacks"].items() if key.startswith("EMA"))["ema_weights"]


def test_what_a_run_leaves_behind(tiny_run):
    folder = tiny_run("a", "export.report=true", "callbacks.checkpoint.keep=all")
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "events" not in p.name}
    assert {
        "config.yaml",
        "results.json",
        "loss.png",
        "before_after.png",
        "training_images.png",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "pipeline/model_index.json",
        "pipeline/README.md",
        "pipeline/before_after.png",
        "pipeline/unet/diffusion_pytorch_model.safetensors",
        "samples/step_000000.png",
        "samples/step_000002.png",
        "samples/step_000004.png",
    } <= left
    assert not [p for p in left if "partial" in p or p.endswith((".bin", ".log"))]
    r = results(folder)
    assert r["val_loss"] < r["base_val_loss"]
    assert r["images_per_second"] > 0
    assert {"seconds", "command", "versions", "hardware", "best_step"} <= set(r)
    assert r["command"] in (folder / "pipeline" / "README.md").read_text()

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [e.step for e in events.Scalars("val/loss")] == [0, 2, 4]
    assert events.Scalars("val/relative_to_base")[0].value == 1
    tags = set(events.Tags()["scalars"])
    assert {"val/loss_raw", "train/loss_smoothed"} <= tags
    assert {"train/lr", "train/grad_norm"} <= tags
    assert {"val_by_timestep/t250", "val_by_timestep/t750"} <= tags
    assert all(len(events.Scalars(tag)) > 1 for tag in tags), "no curve of a single point"
    first = sorted(tags | set(events.Tags()["images"]))[0]
    assert first.startswith(("samples", "train/")), "TensorBoard opens with samples and losses"
    assert "results/text_summary" in events.Tags()["tensors"]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    assert "hp_metric" not in tags
    assert set(events.Tags()["images"]) == {"samples", "samples_before_after", "training_images"}
    assert [e.step for e in events.Images("samples")] == [0, 2, 4]


def test_training_images_are_below_the_samples(tiny_run):
    """Two 16 px images a row, enlarged 15 times, beside the row's name."""
    folder = tiny_run("a", "export.report=true", "callbacks.checkpoint.keep=all")
    sheet = np.asarray(Image.open(folder / "before_after.png"))
    assert sheet.shape[0] == 3 * 16 * 15 + 2 * 3
    left, right = (sheet[-16 * 15 :: 15, start:][:, : 16 * 15 : 15] for start in (-(2 * 16 * 15 + 3), -16 * 15))
    data = open_set(DrawnSource("butterflies", 30), (3, 16, 16), "crop")
    rows = data.split(0.1)[0]
    for shown, row in ((left, rows[0]), (right, rows[len(rows) // 2])):
        assert (shown.transpose(2, 0, 1) == data.images[row]).all()


def test_the_training_loss_has_the_scale_of_the_validation_loss(tiny_run):
    """The first step's loss, before any weight has changed, is the same whatever the objective weights."""
    plain = tiny_run("a", "export.report=true", "callbacks.checkpoint.keep=all")
    weighted = tiny_run("weighted", "weighting=min_snr", "weighting.snr_gamma=0.01", "trainer.max_steps=1")
    first = [json.loads((run / "history.json").read_text())["training"][0] for run in (plain, weighted)]
    assert first[1] == pytest.approx(first[0])
    assert results(weighted)["final_train_loss"] == first[1][1] > 0.8
    events = EventAccumulator(str(weighted / "tensorboard"))
    events.Reload()
    assert 0 < events.Scalars("train/loss_weighted")[0].value < 0.5 * first[1][1]


def test_a_curve_begins_with_its_second_point(tmp_path):
    def curves() -> dict:
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    log = RunLogger(str(tmp_path))
    log.log_metrics({"samples_evaluation/kd": 0.5, "train/loss": 1.0}, step=10)
    log.save()
    assert curves() == {"train/loss": [(10, 1.0)]}
    for step, kd in ((20, 0.25), (30, 0.125)):
        log.log_metrics({"samples_evaluation/kd": kd}, step=step)
    log.save()
    assert curves()["samples_evaluation/kd"] == [(10, 0.5), (20, 0.25), (30, 0.125)]
    continued = RunLogger(str(tmp_path))
    continued.log_metrics({"samples_evaluation/kd": 1.0}, step=40)
    continued.save()
    assert curves()["samples_evaluation/kd"][-1] == (40, 1.0)


def test_the_export_has_the_ema_weights_and_samples_in_stock_diffusers(tiny_run, run, tmp_path):
    folder = tiny_run("a", "export.report=true", "callbacks.checkpoint.keep=all")
    best = checkpoint(folder, "best")
    stock = DDPMPipeline.from_pretrained(folder / "pipeline", low_cpu_mem_usage=False)
    stock.set_progress_bar_config(disable=True)
    exported = stock.unet.state_dict()
    averages = {name.removeprefix("unet."): a for name, a in ema_of(best).items()}
    assert set(averages) == set(exported)
    assert all(torch.equal(averages[name], exported[name]) for name in averages)
    assert not all(torch.equal(best["state_dict"][f"denoiser.unet.{name}"], exported[name]) for name in exported)

    assert run("sample", f"model.pretrained={folder}", "scheduler=ddpm", "steps=5", "n=2", "out=drawn") == 0
    for seed in (0, 1):
        ours = np.asarray(Image.open(f"drawn/seed_0000{seed}.png"))
        (image,) = stock(generator=torch.Generator().manual_seed(seed), num_inference_steps=5).images
        assert np.abs(ours.astype(int) - np.asarray(image)).max() <= 1  # one image at a time there, two here


@pytest.mark.parametrize("stop", [3, *(pytest.param(at, marks=pytest.mark.proof) for at in (2, 5))])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tiny_run, run, stop):
    """23 images in micro-batches of 4 by 2 are three steps an epoch: stopped inside one, at its end, in the next."""
    same = ["trainer.accumulate_grad_batches=2", "lr_schedule=constant"]
    whole = tiny_run("whole", *same, "trainer.max_steps=7")
    part = tiny_run("part", *same, f"trainer.max_steps={stop}")
    assert run("train", f"resume={part}", "trainer.max_steps=7") == 0
    a, b = checkpoint(whole), checkpoint(part)
    assert a["global_step"] == b["global_step"] == 7
    for name, weight in a["state_dict"].items():
        assert torch.equal(weight, b["state_dict"][name]), name
    assert all(torch.equal(x, ema_of(b)[name]) for name, x in ema_of(a).items())
    assert results(whole)["val_loss"] == results(part)["val_loss"]


def test_epochs_are_counted_right_after_a_stop_inside_one(tiny_run, run):
    part = tiny_run("part", "trainer.accumulate_grad_batches=2", "trainer.max_steps=2")
    assert run("train", f"resume={part}", "trainer.max_steps=-1", "trainer.max_epochs=2") == 0
    assert results(part)["steps"] == 2 * 3


def test_a_copied_run_continues_in_its_own_folder(tiny_run, run, tmp_path):
    part = tiny_run("part", "trainer.max_steps=2")
    shutil.copytree(part, tmp_path / "runs" / "copy")
    before = {p: p.stat().st_mtime_ns for p in part.rglob("*")}
    assert run("train", "resume=runs/copy", "trainer.max_steps=4") == 0
    assert {p: p.stat().st_mtime_ns for p in part.rglob("*")} == before
    again = results(tmp_path / "runs" / "copy")
    assert again["steps"] == 4
    assert again["continued_by"] == ["python train.py resume=runs/copy trainer.max_steps=4"]


def test_before_and_after_shows_the_exported_weights_after_a_resume(tiny_run, run):
    """The best step is the one resumed from, and nothing was sampled since: its images are not the base model's."""
    quick = ["optimizer.lr=1e-2", "lr_schedule=constant", "lr_schedule.warmup_steps=0"]
    part = tiny_run("part", *quick, "trainer.max_steps=2", "callbacks.samples.every_n_train_steps=100")
    last = checkpoint(part)
    last["callbacks"]["Best"]["value"] = 0.0  # nothing later can be better
    torch.save(last, part / "checkpoints" / "last.ckpt")
    expected = np.asarray(Image.open(part / "pipeline" / "before_after.png"))
    assert run("train", f"resume={part}", "trainer.max_steps=3") == 0
    assert results(part)["best_step"] == 2
    assert (np.asarray(Image.open(part / "pipeline" / "before_after.png")) == expected).all()


@pytest.mark.parametrize(
    "change",
    ["data.image_size=32", "data.batch_size=8", "optimizer.lr=[1]", "weighting=min_snr", "data=moths", "x.y=1"],
)
def test_what_would_change_the_past_is_refused(tiny_run, run, capfd, change):
    part = tiny_run("part", "trainer.max_steps=2")
    recorded = (part / "config.yaml").read_text()
    assert run("train", f"resume={part}", change) == 2
    assert change.split("=")[0] in capfd.readouterr().err
    assert (part / "config.yaml").read_text() == recorded


def test_a_run_killed_after_its_last_step_is_completed(tiny_run, run):
    folder = tiny_run("a")
    figures = results(folder)
    shutil.rmtree(folder / "pipeline")
    (folder / "results.json").unlink()
    assert run("train", f"resume={folder}") == 0
    assert results(folder)["val_loss"] == figures["val_loss"]
    assert (folder / "pipeline" / "model_index.json").is_file()


@pytest.mark.parametrize("off", ["null", "0"])
def test_clipping_can_be_turned_off(tiny_run, off):
    free = checkpoint(tiny_run("free", f"trainer.gradient_clip_val={off}"))
    far = checkpoint(tiny_run("far", "trainer.gradient_clip_val=1e9"))
    assert all(torch.equal(w, far["state_dict"][name]) for name, w in free["state_dict"].items())


def test_divergence_is_reported_and_nothing_is_exported(run, tmp_path, capfd):
    wild = ["optimizer.lr=1000", "lr_schedule=constant", "lr_schedule.warmup_steps=0", "trainer.gradient_clip_val=null"]
    tiny = [*TINY_MODEL, *DATA, *TINY_RUN, "name=wild", "trainer.max_steps=40"]
    assert run("train", *tiny, *wild) == 2
    assert "diverged" in capfd.readouterr().err
    assert not (tmp_path / "runs" / "wild" / "pipeline").exists()


@pytest.mark.proof  # starts processes
def test_a_frozen_seed_gives_the_same_run_whatever_the_workers(tiny_run):
    a, b = checkpoint(tiny_run("a")), checkpoint(tiny_run("b", "data.num_workers=1"))
    assert all(torch.equal(w, b["state_dict"][name]) for name, w in a["state_dict"].items())


def test_config_yaml_is_enough_to_run_it_again(tiny_run, tmp_path):
    from omegaconf import OmegaConf

    first = tiny_run("a", "optimizer.lr=1e-3", "objective=v", "weighting=min_snr")
    cfg = OmegaConf.load(first / "config.yaml")
    assert (cfg.optimizer.lr, cfg.objective.prediction, cfg.weighting.snr_gamma) == (1e-3, "v", 5)
    assert "${" not in (first / "config.yaml").read_text()


def test_max_epochs_end_with_their_last_short_window(tiny_run, run, capfd):
    folder = tiny_run("a", "trainer.max_steps=-1", "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2")
    data = drawn_data(n=30, image_size=16)
    data.setup()
    micro_batches = -(-len(data.train_rows) // 4)
    assert results(folder)["steps"] == 2 * -(-micro_batches // 2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run("train", "resume=runs/a") == 0
    assert "there is nothing to do. trainer.max_epochs=MORE continues it" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_schedule_counts_optimizer_steps(tiny_run):
    """Cosine after two warm-up steps, accumulated by 3: the rate that each step used, against the closed form."""
    folder = tiny_run("a", "trainer.accumulate_grad_batches=3", "trainer.max_steps=6", "lr_schedule.warmup_steps=2")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rates = [e.value for e in events.Scalars("train/lr")]
    closed = [s / 2 if s < 2 else 0.5 * (1 + math.cos(math.pi * (s - 2) / 4)) for s in range(6)]
    assert rates == pytest.approx([1e-3 * c for c in closed], rel=1e-5)


def test_every_source_and_size_trains(tiny_run, image_folder):
    folder = tiny_run("wide", "data=folder", f"data.path={image_folder}", "data.image_size=[16,24]")
    assert Image.open(folder / "samples" / "step_000004.png").size == (11 * (24 * 2 + 2), 11 * 16)
    assert DDPMPipeline.from_pretrained(folder / "pipeline", low_cpu_mem_usage=False).unet.config.sample_size == [
        16,
        24,
    ]


def test_without_an_image_size_a_run_has_that_of_its_model(run, model_folder, tmp_path, capfd):
    unet = json.loads((model_folder / "unet" / "config.json").read_text())
    assert unet["sample_size"] == 16
    assert run("train", f"model.pretrained={model_folder}", *TINY_RUN, *DATA, "name=a") == 0
    assert "16 x 16 px" in capfd.readouterr().err
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "runs" / "a" / "pipeline")
    assert pipeline.unet.config.sample_size == 16
    assert scratch.build(block_out_channels=(8, 16)).size() == (64, 64)
    (model_folder / "unet" / "config.json").write_text(json.dumps({**unet, "sample_size": None}))
    assert run("train", f"model.pretrained={model_folder}", *TINY_RUN, *DATA, "name=b") == 2
    assert "give data.image_size=PIXELS" in capfd.readouterr().err
