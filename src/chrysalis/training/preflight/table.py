"""The summary that a run starts with. It prints what it is given, and changes nothing."""

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from chrysalis.data import pixels
from chrysalis.system.files import shown
from chrysalis.training import memory_estimate
from chrysalis.training.preflight.advice import advice, duration
from chrysalis.training.preflight.base_loss import BaseLoss
from chrysalis.training.preflight.memory_needs import disk, in_bytes
from chrysalis.training.preflight.plan import Plan

SAMPLE = 64  # training images whose values are summarized
PREDICTS = {"epsilon": "the noise (eps)", "v_prediction": "v (noise and image)", "sample": "the image (x0)"}


def table(plan: Plan, base: BaseLoss | None, cost: memory_estimate.Cost | None, free: int) -> Table:
    """The summary. base, cost: None if not measured. free: bytes of memory."""
    out = Table(title="What this run will do", show_header=False, box=box.ROUNDED, title_style="bold")
    out.add_column(style="cyan", no_wrap=True)
    out.add_column(overflow="fold")
    for name, cell in (
        ("model", model_row(plan)),
        ("data", data_row(plan)),
        ("loss now", loss_row(plan, base)),
        ("training", training_row(plan)),
        ("time", time_row(plan, base)),
        ("measuring", measuring_row(plan, base)),
        ("memory", memory_row(plan, cost, free)),
        ("disk", disk_row(plan)),
        ("advice", Text("\n".join(advice(plan, base, cost, free)), style="yellow")),
    ):
        if cell:
            out.add_row(name, Text(cell) if isinstance(cell, str) else cell)
    return out


def model_row(plan: Plan) -> str:
    """What the model is and predicts, and its image size."""
    all_train = ", all of them trained" if all(p.requires_grad for p in plan.model.parameters()) else ""
    (height, width), predicts = plan.data.size, plan.module.denoiser.objective.name
    text = plan.model.description().removeprefix("model: ")
    text = text.replace(f"predicts {predicts}", f"predicts {PREDICTS[predicts]}")
    size = plan.size_note or f"{width} x {height} px" + (", as it was trained" if plan.model.origin else "")
    return f"{text}{all_train}\n{size}"


def data_row(plan: Plan) -> str:
    """The data set, and the values of some training images: as decoded, and as the UNet sees them."""
    images, rows = plan.data.image_set, plan.data.train_rows
    sample = images.images[rows[:: -(-len(rows) // SAMPLE)]]
    decoded = np.array([sample.min(), sample.max(), *sample.mean(axis=(0, 2, 3), dtype=np.float64)])
    low, high, *means = (f"{v:.0f}" for v in decoded)
    seen_low, seen_high, *seen = (f"{v:z.2f}" for v in pixels.to_signed(torch.from_numpy(decoded)))
    rejected = f"\n{len(images.rejected)} more cannot be read and are skipped" if images.rejected else ""
    return (
        f"{plan.data.description().removeprefix('data: ')}{rejected}\n"
        f"values from {low} to {high}, on average red {means[0]}, green {means[1]}, blue {means[2]}\n"
        f"the model sees {seen_low} to {seen_high}: {', '.join(seen)}"
    )


def loss_row(plan: Plan, base: BaseLoss | None) -> Group | str:
    """The base model's validation loss by timestep, from little noise to much, beside that of predicting zeros."""
    if base is None:
        return "measured when the run began" if plan.resumed else "not measured: it does not fit in memory"
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    grid.add_column()
    for _ in (*base.timesteps, "mean"):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row("timestep", *map(str, base.timesteps), "mean", style="dim")
    grid.add_row("the model", *(f"{v:.3f}" for v in (*base.loss, base.loss.mean())))
    grid.add_row("all zeros", *(f"{v:.3f}" for v in (*base.zeros, base.zeros.mean())), style="dim")
    run = plan.measuring
    images = f"on {_count(base.images)}, {len(base.timesteps)} timesteps"
    if (run.images, run.timesteps) != (base.images, len(base.timesteps)):
        images += f"; the validation loss is on {_count(run.images)}, {run.timesteps} timesteps, with its own mean"
    doubt = base.doubt(plan.module.denoiser.objective.name) if plan.model.origin else None
    return Group(grid, Text(images, style="dim"), *([Text(doubt, style="yellow")] if doubt else []))


def _count(images: int) -> str:
    return f"{images} validation image{'s' * (images != 1)}"


def training_row(plan: Plan) -> str:
    """Steps, images of a step, epochs."""
    trainer, steps = plan.trainer, plan.steps
    several = ((trainer.accumulate_grad_batches, "micro-batches"), (trainer.world_size, "devices"))
    factors = [f"{plan.batch_size} at once", *(f"{n} {name}" for n, name in several if n > 1)]
    how = f" ({' x '.join(factors)})" if len(factors) > 1 else ""
    size = plan.images_per_step * trainer.world_size
    if steps is None:
        return f"steps of {size} images{how}, until it is stopped"
    epochs = steps / plan.steps_per_epoch
    return f"{steps} steps of {size} images{how}: {epochs:.{1 if epochs < 100 else 0}f} epochs"


def time_row(plan: Plan, base: BaseLoss | None) -> str | None:
    """Time of training and of all else, from the speed of the forward pass."""
    if base is None or plan.steps is None:
        return None
    training, beside = (n * base.seconds for n in plan.forward_passes(base.conditions))
    speed = plan.steps * plan.images_per_step * plan.trainer.world_size / training
    return (
        f"about {duration(training + beside)}: {duration(training)} of training at {speed:.{0 if speed > 9.5 else 1}f} "
        f"images/s, {duration(beside)} of measuring and sampling"
    )


def measuring_row(plan: Plan, base: BaseLoss | None) -> str | None:
    """Time and size of validation and sampling, and what of them is coarser than configured."""
    if base is None:
        return None
    training, beside = (n * base.seconds for n in plan.forward_passes(base.conditions))
    now, available = plan.measuring, len(plan.data.validation_rows)
    coarser = ", ".join(f"{key}={value}" for key, value in plan.coarser.items())
    time = f"about {duration(beside)} of {duration(training + beside)}: " if plan.steps else ""
    return (
        f"{time}validation on {now.images} of {available} images x {now.timesteps} timesteps, grids of {now.samples}"
        + (f"; coarser to save time: {coarser}" if coarser else "")
    )


def memory_row(plan: Plan, cost: memory_estimate.Cost | None, free: int) -> str:
    """Memory of a step."""
    if cost is None:
        return f"little beside the {in_bytes(free)} that are free (preflight=only counts it)"
    return f"about {in_bytes(memory_estimate.MARGIN * cost.total(plan.batch_size))} of {in_bytes(free)} free"


def disk_row(plan: Plan) -> str:
    """Room on the disk."""
    needed, free = disk(plan)
    return f"about {in_bytes(needed)} into {shown(plan.folder)}: checkpoints, pipeline, samples; {in_bytes(free)} free"
