"""The summary table that is printed before a run starts."""

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from chrysalis.data import pixels
from chrysalis.system import compiling
from chrysalis.system.files import shown
from chrysalis.training.memory_estimate import MARGIN, Cost, largest_batch
from chrysalis.training.out_of_memory import MEMORY_ADVICE
from chrysalis.training.preflight.base_loss import BaseLoss
from chrysalis.training.preflight.plan import Plan

SUMMARIZED = 64  # training images whose values are summarized
PREDICTS = {"epsilon": "the noise (eps)", "v_prediction": "v (noise and image)", "sample": "the image (x0)"}
COMPILING_SAVES = {"cpu": 0.10, "cuda": 0.25}  # fraction of a step's time


def table(plan: Plan, base: BaseLoss | None, cost: Cost | None, free: int) -> Table:
    """Make the summary table. base, cost: None if not measured. free: bytes of memory."""
    out = Table(title="What this run will do", show_header=False, box=box.ROUNDED, title_style="bold")
    out.add_column(style="cyan", no_wrap=True)
    out.add_column(overflow="fold")
    memory = f"little compared with the {decimal(free)} free (preflight=only estimates it)"
    if cost is not None:
        memory = f"about {decimal(int(MARGIN * cost.total(plan.batch_size)))} of {decimal(free)} free"
    needed, room = map(decimal, plan.disk())
    for name, cell in (
        ("model", model_row(plan)),
        ("data", data_row(plan)),
        ("base loss", loss_row(plan, base)),
        ("training", training_row(plan)),
        ("time", time_row(plan, base) if base else None),
        ("measuring", measuring_row(plan) if base else None),
        ("memory", memory),
        ("disk", f"about {needed} into {shown(plan.folder)}: checkpoints, pipeline, samples; {room} free"),
        ("advice", Text("\n".join(advice(plan, base, cost, free)), style="yellow")),
    ):
        if cell:
            out.add_row(name, Text(cell) if isinstance(cell, str) else cell)
    return out


def model_row(plan: Plan) -> str:
    all_train = ", all of them trained" if all(p.requires_grad for p in plan.model.parameters()) else ""
    (height, width), predicts = plan.data.size, plan.module.denoiser.objective.name
    text = plan.model.description().removeprefix("model: ")
    text = text.replace(f"predicts {predicts}", f"predicts {PREDICTS.get(predicts, predicts)}")
    size = plan.size_note or f"{width} x {height} px" + (", as it was trained" if plan.model.origin else "")
    return f"{text}{all_train}\n{size}"


def data_row(plan: Plan) -> str:
    """The data set, and the values of some training images: as decoded, and as the UNet sees them."""
    images, rows = plan.data.image_set, plan.data.train_rows
    some = images.images[rows[:: -(-len(rows) // SUMMARIZED)]]
    decoded = np.array([some.min(), some.max(), *some.mean(axis=(0, 2, 3), dtype=np.float64)])
    names = ("red", "green", "blue", "alpha") if len(decoded) > 3 else ("grey",)
    low, high, *means = (f"{v:.0f}" for v in decoded)
    scaled_low, scaled_high, *scaled = (f"{v:z.2f}" for v in pixels.to_signed(torch.from_numpy(decoded)))
    average, scaled_average = (", ".join(map(" ".join, zip(names, values, strict=False))) for values in (means, scaled))
    rejected = f"\n{len(images.rejected)} more skipped, since unreadable" if images.rejected else ""
    return (
        f"{plan.data.description().removeprefix('data: ')}{rejected}\n"
        f"values from {low} to {high}, on average {average}\n"
        f"scaled to [-1, 1], from {scaled_low} to {scaled_high}, on average {scaled_average}"
    )


def loss_row(plan: Plan, base: BaseLoss | None) -> Group | str:
    """The base model's validation loss by timestep, from little noise to much, beside that of predicting zeros."""
    if base is None:
        too_large = "not measured, since no image fits in memory: use a smaller data.image_size or model"
        return "measured when the run began" if plan.resumed else too_large
    if not plan.module.denoiser.codec.is_ready:
        return "not known yet: the autoencoder is trained first"
    columns = [Column(justify="right", no_wrap=True) for _ in (*base.timesteps, "mean")]
    grid = Table.grid(Column(), *columns, padding=(0, 1), pad_edge=False)
    grid.add_row("timestep", *map(str, base.timesteps), "mean", style="dim")
    grid.add_row("the model", *(f"{v:.3f}" for v in (*base.loss, base.loss.mean())))
    grid.add_row("all zeros", *(f"{v:.3f}" for v in (*base.zeros, base.zeros.mean())), style="dim")
    run = plan.measuring
    images = f"on {_count(base.images)}, {len(base.timesteps)} timesteps"
    if (run.images, run.timesteps) != (base.images, len(base.timesteps)):
        images += f"; val/loss is the mean over {_count(run.images)}, {run.timesteps} timesteps"
    warning = base.warning(plan.module.denoiser.objective.name) if plan.model.origin else None
    return Group(grid, Text(images, style="dim"), *([Text(warning, style="yellow")] if warning else []))


def _count(images: int) -> str:
    return f"{images} validation image{'s' * (images != 1)}"


def training_row(plan: Plan) -> str:
    several = ((plan.accumulate, "micro-batches"), (plan.trainer.world_size, "devices"))
    factors = [f"{plan.batch_size} at once", *(f"{n} {name}" for n, name in several if n > 1)]
    how = f" ({' x '.join(factors)})" if len(factors) > 1 else ""
    if plan.steps is None:
        return f"steps of {plan.images_per_step} images{how}, until it is stopped"
    epochs = plan.steps / plan.steps_per_epoch
    return f"{plan.steps} steps of {plan.images_per_step} images{how}: {epochs:.{1 if epochs < 100 else 0}f} epochs"


def time_row(plan: Plan, base: BaseLoss) -> str | None:
    if plan.steps is None:
        return None
    training, measuring = (n * base.seconds_per_pass for n in plan.forward_passes(base.conditions))
    speed = plan.steps * plan.images_per_step / training
    autoencoder = "" if plan.module.denoiser.codec.is_ready else "the autoencoder's training, then "
    return (
        f"{autoencoder}about {duration(training + measuring)}: {duration(training)} of training at "
        f"{speed:.{0 if speed > 9.5 else 1}f} images/s, {duration(measuring)} of measuring and sampling"
    )


def measuring_row(plan: Plan) -> str:
    now, images = plan.measuring, f"{plan.measuring.images} of {len(plan.data.validation_rows)} images"
    pairs = ", ".join(f"{key}={value}" for key, value in plan.coarser.items())
    coarser = f"; coarser to save time: {pairs}" if pairs else ""
    return f"validation on {images} x {now.timesteps} timesteps, grids of {now.samples} samples{coarser}"


def advice(plan: Plan, base: BaseLoss | None, cost: Cost | None, free: int) -> list[str]:
    """Sentences on what makes a step fit into `free` bytes of memory, or the run shorter."""
    sentences, batch = [], plan.batch_size
    if cost is not None and not plan.resumed and (most := cost.max_batch_size(free)) < batch:
        accumulate, fits = plan.accumulate, largest_batch(cost, free, batch)
        sentences.append(
            f"A step does not fit in memory: data.batch_size={fits} trainer.accumulate_grad_batches="
            f"{accumulate * batch // fits} fits and trains the same; so does data.batch_size=auto "
            f"data.effective_batch={batch * accumulate}. model.gradient_checkpointing=true needs less memory per image."
            if most
            else f"Not even one image at a time fits in memory: {MEMORY_ADVICE}"
        )
    if base is not None and not plan.compiled:
        training, _ = plan.forward_passes(base.conditions)
        saved = training * base.seconds_per_pass * COMPILING_SAVES.get(plan.device.type, 0)
        if saved > 3 * compiling.SECONDS:
            sentences.append(f"compile=true would make the run about {duration(saved - compiling.SECONDS)} shorter.")
    return sentences


def duration(seconds: float) -> str:
    """Format seconds as '40 s', '12 min' or '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
