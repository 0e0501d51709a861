"""The time that ours takes to reach each baseline's final validation loss."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.speed.report import Row
from benchmarks.speed.sides import QUIET, Bench, Ours
from benchmarks.speed.training import plain_training, script_training, warm
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.sources.folder import folder_data
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.evaluation.validation_loss import validation_loss
from chrysalis.models import folder
from chrysalis.system import hardware
from chrysalis.system.files import written_folder
from chrysalis.system.terminal import say

TARGET = 1 / 3
IMAGES, BINS = 12, 6  # images, and timesteps of each
EPS_STEPS, EPS_IMAGES = 75, 300  # for training the model that all sides start from
PLAIN_EPOCHS, PLAIN_LR = 1, 1e-5
SCRIPT_LR, STEPS, EVERY = 5e-4, 40, 8  # SCRIPT_LR and STEPS of ours too; EVERY: steps between validations of ours


@dataclass(frozen=True)
class FinalLoss:
    """A baseline's validation loss, and the seconds to it from the start of the process."""

    loss: float
    seconds: float


def to_plain_loss(bench: Bench) -> Row:
    """Compare with the plain loop at its own learning rate."""
    data = images(bench)
    micro_batches = PLAIN_EPOCHS * (len(data.train_rows) // 4)
    options = {"lr": PLAIN_LR, "warmup": 1, "save": bench.scratch / "plain"}
    figures = plain_training(
        bench, bench.steps(micro_batches), data=training_view(bench), model=eps_model(bench), **options
    )
    theirs = final_loss(bench, figures, bench.scratch / "plain")
    what = f"to the plain loop's validation loss after {PLAIN_EPOCHS} epoch"
    row = Row("validation-loss", what, "s", TARGET, at_least=False, plain=[theirs.seconds])
    step, seconds = time_to_loss(ours_run(bench), theirs.loss)
    row.ours = [seconds]
    row.notes = {"validation loss": theirs.loss, "plain loop": f"lr {PLAIN_LR:g}", "Chrysalis's step": step}
    return row


def to_script_loss(bench: Bench) -> Row:
    """Compare with the script's EMA weights after as many steps at our learning rate; without a target."""
    steps = bench.steps(STEPS)
    options = {"lr": SCRIPT_LR, "lr_warmup_steps": 0, "warmup": 1, "save": bench.scratch / "script"}
    figures = script_training(bench, steps, data=training_view(bench), model=eps_model(bench), **options)
    theirs = final_loss(bench, figures, bench.scratch / "script")
    what = f"to the script's validation loss after {STEPS} steps at Chrysalis's learning rate"
    row = Row("validation-loss-script", what, "s", None, at_least=False, script=[theirs.seconds])
    step, seconds = time_to_loss(ours_run(bench), theirs.loss, or_nothing=True)
    row.ours = [] if seconds is None else [seconds]
    lowest = min(value for _, value, _ in losses(ours_run(bench)))
    row.notes = {
        "validation loss": theirs.loss,
        "Chrysalis's step": step or f"not in {steps}",
        "Chrysalis's lowest validation loss": lowest,
    }
    return row


@cache
def images(bench: Bench) -> ImageDataModule:
    data = folder_data(bench.data, image_size=bench.image_size, resize="stretch")
    data.setup()
    return data


def training_view(bench: Bench) -> Path:
    """Create a folder of the images that ours trains on, without the validation images."""
    data = images(bench)
    names = {data.image_set.names[i] for i in data.train_rows}
    return bench.view("training", lambda file: str(file) in names)


def final_loss(bench: Bench, figures: dict, saved: Path) -> FinalLoss:
    """Measure a baseline's validation loss at the end of its training, and the seconds until then."""
    return FinalLoss(loss_of(saved, images(bench), bench.device), figures["first_step_at_s"] + figures["timed_seconds"])


def loss_of(model_folder: Path | str, data: ImageDataModule, device: str = "cpu") -> float:
    """Measure the validation loss of a model that predicts the noise, as our callback does and in its precision."""
    model = folder.load(str(model_folder))
    denoiser = Denoiser(model.unet, model.scheduler, objective("epsilon")).eval().to(device)
    batch = data.validation_batch(IMAGES)
    precision, _ = hardware.precision("auto", device)
    dtype = hardware.AUTOCAST[precision]
    with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype is not None):
        return validation_loss(denoiser, batch.image, batch.key.tolist(), BINS, seed=0).mean().item()


@cache
def ours_run(bench: Bench) -> Ours:
    """Run ours with validation every few steps, which counts as its time, and hardly any sampling."""
    warm(bench)
    return bench.ours(
        f"model.pretrained={eps_model(bench)}",
        *QUIET,
        f"trainer.max_steps={bench.steps(STEPS)}",
        f"optimizer.lr={SCRIPT_LR}",
        f"callbacks.validation.every_n_train_steps={bench.steps(EVERY)}",
        f"callbacks.validation.n_images={IMAGES}",
        f"callbacks.validation.timesteps={BINS}",
        "callbacks.validation.seed=0",
    )


def losses(ours: Ours) -> list[tuple[int, float, float]]:
    """(step, validation loss, time) of every validation after step 0, of the raw and of the EMA weights."""
    scalars = EventAccumulator(str(ours.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload().Scalars
    events = [event for name in ("val/loss_raw", "val/loss") for event in scalars(name) if event.step > 0]
    return [(event.step, event.value, event.wall_time) for event in events]


def time_to_loss(ours: Ours, loss: float, or_nothing: bool = False) -> tuple[int | None, float | None]:
    """(step, seconds since the start of the process) of the first validation loss after step 0 at or below `loss`."""
    all_of_them = losses(ours)
    found = min((each for each in all_of_them if each[1] <= loss), key=lambda each: each[2], default=None)
    if found is None and not or_nothing:
        step, best, _ = min(all_of_them, key=lambda each: each[1])
        raise ValueError(
            f"Chrysalis's lowest validation loss, {best:.5f} at step {step}, is above the baseline's {loss:.5f}"
        )
    return (None, None) if found is None else (found[0], found[2] - ours.started)


@cache
def eps_model(bench: Bench) -> str:
    """Train the small noise-predicting model that all sides start from, once, on moths; returns its cached folder."""
    if bench.eps_model:
        return bench.eps_model
    folder = (bench.scratch if bench.quick else bench.cache) / f"bench/eps-moths-{bench.image_size}-{EPS_STEPS}"
    if not folder.is_dir():
        say(f"  training a model that predicts the noise (cached in {folder})")
        steps = f"trainer.max_steps={bench.steps(EPS_STEPS)}"
        size, images = f"data.image_size={bench.image_size}", f"data.n={EPS_IMAGES}"
        made = bench.ours("data=moths", images, size, "model=scratch", "objective=eps", steps, *QUIET)
        with written_folder(folder) as partial:
            (made.folder / "pipeline").rename(partial / "pipeline")
    return str(folder / "pipeline")
