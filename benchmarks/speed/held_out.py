"""How long each side takes to the held-out loss that the plain loop has after two passes."""

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.speed.report import Row
from benchmarks.speed.sides import NEVER, QUIET, Bench, Ours
from benchmarks.speed.training import plain_training, warm
from chrysalis import datamodule, folder, hardware
from chrysalis.denoiser import Denoiser
from chrysalis.files import written_folder
from chrysalis.metrics.timesteps import held_out_loss
from chrysalis.objective import Objective
from chrysalis.terminal import say

TARGET = 1 / 3
PASSES = 2
IMAGES, BINS = 24, 8
EPS_STEPS, EPS_PICTURES = 150, 300  # of the model that both start from
STEPS, EVERY = 40, 5  # of ours, to the loss of the plain loop at its own learning rate
OUR_LR, MEASURED = 5e-4, 6  # to its loss at ours, in two passes too, with as many measurements


def held_out(bench: Bench) -> Row:
    """Two comparisons: with the plain loop at its learning rate of 1e-5, and, in the notes, at ours."""
    warm(bench)
    model = bench.eps_model or eps_model(bench)
    data = datamodule.folder(bench.data, image_size=bench.image_size, resize="stretch")
    data.setup()
    row = Row("held-out", f"to the plain loop's held-out loss after {PASSES} passes", "s", TARGET, at_least=False)
    at_own, loss = plain_run(bench, model, data, lr=1e-5)
    ours = ours_run(bench, model, STEPS, EVERY)
    step, seconds = reached(ours, loss)
    row.plain, row.ours = [at_own], [seconds]
    at_ours, harder = plain_run(bench, model, data, lr=OUR_LR)
    passes = bench.steps(PASSES * -(-len(data.train_rows) // 8))
    same = ours_run(bench, model, passes, passes // MEASURED, "lr_schedule=constant")  # as the plain loop's is
    longer_step, longer = reached(same, harder, or_nothing=True)
    row.notes = {
        "loss": loss,
        "our step": step,
        f"the plain loop at lr {OUR_LR:g}, s": at_ours,
        "its loss": harder,
        "ours to that, s": longer if longer else f"not in {passes} steps",
        "our step there": longer_step,
        "ratio there": longer and longer / at_ours,
    }
    return row


def plain_run(bench: Bench, model: str, data: datamodule.Pictures, lr: float) -> tuple[float, float]:
    """(seconds from process start to the end of its training, held-out loss), on the pictures that ours learns from."""
    names = {data.pictures.names[i] for i in data.train_rows}
    view = bench.view("training", lambda file: str(file) in names)
    saved = bench.scratch / f"plain-{lr:g}"
    micro_batches = bench.steps(PASSES * (len(names) // 4))
    figures = plain_training(bench, micro_batches, data=view, model=model, lr=lr, warmup=1, save=saved)
    return figures["first_step_at_s"] + figures["timed_seconds"], loss_of(saved, data, bench.device)


def loss_of(model_folder: Path | str, data: datamodule.Pictures, device: str = "cpu") -> float:
    """What the held_out callback would say of a model that predicts the noise, in the precision that it would use."""
    model = folder.load(str(model_folder))
    denoiser = Denoiser(model.unet, model.scheduler, Objective("epsilon")).eval().to(device)
    batch = data.held_out_batch(IMAGES)
    precision, _ = hardware.precision("auto", device)
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
    with torch.no_grad(), torch.autocast(device, dtype, enabled=precision != "32-true"):
        return held_out_loss(denoiser, batch.image, batch.key.tolist(), BINS, seed=0).mean().item()


def ours_run(bench: Bench, model: str, steps: int, every: int, *also: str) -> Ours:
    """The plain loop draws no pictures, so ours draws next to none; measuring is part of its time."""
    return bench.ours(
        f"model.pretrained={model}",
        "data.batch_size=8",
        f"trainer.max_steps={bench.steps(steps)}",
        f"callbacks.held_out.every_n_steps={every}",
        f"callbacks.held_out.n_images={IMAGES}",
        f"callbacks.held_out.bins={BINS}",
        "callbacks.held_out.seed=0",
        f"callbacks.pictures.every_n_steps={NEVER}",
        "callbacks.pictures.n=1",
        "callbacks.pictures.steps=1",
        *also,
    )


def reached(ours: Ours, loss: float, or_nothing: bool = False) -> tuple[int | None, float | None]:
    """(step, seconds since the process was started) of the first held-out loss after step 0 that is no higher."""
    scalars = EventAccumulator(str(ours.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload().Scalars
    events = [event for name in ("held_out/raw", "held_out/ema") for event in scalars(name) if event.step > 0]
    found = min((e for e in events if e.value <= loss), key=lambda e: e.wall_time, default=None)
    if found is None and not or_nothing:
        best = min(events, key=lambda e: e.value)
        raise ValueError(f"ours came to {best.value:.5f} at step {best.step}, not to {loss:.5f}")
    return (None, None) if found is None else (found.step, found.wall_time - ours.started)


def eps_model(bench: Bench) -> str:
    """A small model of drawn moths that predicts the noise, made once and kept in the user's cache folder."""
    kept = (bench.scratch if bench.quick else bench.kept) / f"bench/eps-moths-{bench.image_size}"
    if not kept.is_dir():
        say(f"  making a model that predicts the noise, once, in {kept}")
        steps = f"trainer.max_steps={bench.steps(EPS_STEPS)}"
        size, pictures = f"data.image_size={bench.image_size}", f"data.n={EPS_PICTURES}"
        made = bench.ours("data=moths", pictures, size, "model=scratch", "objective=eps", steps, *QUIET)
        with written_folder(kept, keep_existing=True) as partial:
            (made.folder / "pipeline").rename(partial / "pipeline")
    return str(kept / "pipeline")
