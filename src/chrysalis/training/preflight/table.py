"""The table that a run begins with, and whether the run goes on after it."""

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from chrysalis.data import pixels
from chrysalis.system import memory
from chrysalis.system.files import shown
from chrysalis.system.terminal import console, is_main_process, say
from chrysalis.training import step_memory
from chrysalis.training.callbacks.advice import Advice, minutes_saved
from chrysalis.training.callbacks.clock import of
from chrysalis.training.microbatching import SMALLER
from chrysalis.training.preflight.base_loss import Base, measured
from chrysalis.training.preflight.memory_needs import disk, in_bytes, is_large, memory_cost, require_room
from chrysalis.training.preflight.plan import Plan

SAMPLE = 64  # images whose values are looked at
PREDICTS = {"epsilon": "the noise (eps)", "v_prediction": "v (noise and image)", "sample": "the image (x0)"}


def goes_on(asked: bool | str, plan: Plan) -> bool:
    """Say what a run will do, as `asked`; False if that was all. Nothing of the run is changed by it but
    that what will be evaluated is planned, and its network loaded.

    Raises UserError where the disk is too full for what will be written, or what is asked for cannot be measured.
    """
    plan.prepare()
    if asked is False:
        if plan.note:
            say(plan.note)
        say(plan.model.description())
        say(plan.data.description())
    elif is_main_process():
        with torch.random.fork_rng(devices=[plan.on] if plan.on.type == "cuda" else []):
            cost = memory_cost(plan) if asked == "only" or is_large(plan) else None
            free = memory.free(plan.on)
            base = None if plan.resumed else measured(plan)
            if base is not None:
                plan.keep_to_budget(base.seconds, base.told)
        console.print(table(plan, base, cost, free))
        require_room(plan)
    return asked != "only"


def table(plan: Plan, base: Base | None, cost: step_memory.Cost | None, free: int) -> Table:
    """base, cost: what was measured and counted; None if it was not. free: bytes of memory."""
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
        ("advice", advice_row(plan, base, cost, free)),
    ):
        if cell is not None:
            out.add_row(name, Text(cell) if isinstance(cell, str) else cell)
    return out


def model_row(plan: Plan) -> str:
    learn = ", all of them learn" if all(p.requires_grad for p in plan.model.parameters()) else ""
    (height, width), predicts = plan.data.size, plan.module.denoiser.objective.name
    text = plan.model.description().removeprefix("model: ")
    text = text.replace(f"predicts {predicts}", f"predicts {PREDICTS[predicts]}")
    size = plan.note or f"{width} x {height} px" + (", as it was trained" if plan.model.origin else "")
    return f"{text}{learn}\n{size}"


def data_row(plan: Plan) -> str:
    """What there is, and the values of a sample of the training images: as decoded, and as the UNet sees them."""
    there, rows = plan.data.image_set, plan.data.train_rows
    sample = there.images[rows[:: -(-len(rows) // SAMPLE)]]
    decoded = np.array([sample.min(), sample.max(), *sample.mean(axis=(0, 2, 3), dtype=np.float64)])
    low, high, *means = (f"{v:.0f}" for v in decoded)
    seen_low, seen_high, *seen = (f"{v:z.2f}" for v in pixels.to_signed(torch.from_numpy(decoded)))
    rejected = f"\n{len(there.rejected)} more cannot be read and are left out" if there.rejected else ""
    return (
        f"{plan.data.description().removeprefix('data: ')}{rejected}\n"
        f"values from {low} to {high}, on average red {means[0]}, green {means[1]}, blue {means[2]}\n"
        f"the model sees {seen_low} to {seen_high}: {', '.join(seen)}"
    )


def loss_row(plan: Plan, base: Base | None) -> Group | str:
    """Held out, by timestep, from little noise to much, beside what a zero output gives."""
    if base is None:
        return "measured when the run began" if plan.resumed else "not measured: it does not fit into memory"
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    grid.add_column()
    for _ in (*base.timesteps, "mean"):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row("timestep", *map(str, base.timesteps), "mean", style="dim")
    grid.add_row("the model", *(f"{v:.3f}" for v in (*base.loss, base.loss.mean())))
    grid.add_row("all zeros", *(f"{v:.3f}" for v in (*base.nothing, base.nothing.mean())), style="dim")
    images, run = _count(base.images), plan.measuring
    images = f"on {images}, {len(base.timesteps)} timesteps"
    if (run.images, run.timesteps) != (base.images, len(base.timesteps)):
        images += f"; the validation loss is on {_count(run.images)}, {run.timesteps} timesteps, with its own mean"
    doubt = base.doubt(plan.module.denoiser.objective.name) if plan.model.origin else None
    return Group(grid, Text(images, style="dim"), *([Text(doubt, style="yellow")] if doubt else []))


def _count(images: int) -> str:
    return f"{images} validation image{'s' * (images != 1)}"


def training_row(plan: Plan) -> str:
    trainer, steps = plan.trainer, plan.steps
    several = ((trainer.accumulate_grad_batches, "micro-batches"), (trainer.world_size, "devices"))
    factors = [f"{plan.data.batch_size} at once", *(f"{n} {name}" for n, name in several if n > 1)]
    how = f" ({' x '.join(factors)})" if len(factors) > 1 else ""
    size = plan.images_a_step * trainer.world_size
    if steps is None:
        return f"steps of {size} images{how}, until it is stopped"
    passes = steps / plan.steps_a_pass
    return f"{steps} steps of {size} images{how}: {passes:.{1 if passes < 100 else 0}f} passes over the data"


def time_row(plan: Plan, base: Base | None) -> str | None:
    if base is None or plan.steps is None:
        return None
    training, beside = (n * base.seconds for n in plan.forward_passes(base.told))
    speed = plan.steps * plan.images_a_step * plan.trainer.world_size / training
    return (
        f"about {duration(training + beside)}: {duration(training)} of training at {speed:.{0 if speed > 9.5 else 1}f} "
        f"pictures/s, {duration(beside)} of measuring and drawing"
    )


def measuring_row(plan: Plan, base: Base | None) -> str | None:
    """What validation and samples take, and what of them is coarser than asked or usual."""
    if base is None:
        return None
    training, beside = (n * base.seconds for n in plan.forward_passes(base.told))
    now, there = plan.measuring, len(plan.data.validation_rows)
    less = ", ".join(f"{key}={value}" for key, value in plan.coarser.items())
    takes = f"about {duration(beside)} of {duration(training + beside)}: " if plan.steps else ""
    return (
        f"{takes}validation on {now.images} of {there} images x {now.timesteps} timesteps, grids of {now.samples}"
        + (f"; coarser to save time: {less}" if less else "")
    )


def memory_row(plan: Plan, cost: step_memory.Cost | None, free: int) -> str:
    if cost is None:
        return f"little beside the {in_bytes(free)} that are free (preflight=only counts it)"
    return f"about {in_bytes(step_memory.MARGIN * cost.total(plan.data.batch_size))} of {in_bytes(free)} free"


def disk_row(plan: Plan) -> str:
    needed, free = disk(plan)
    return f"about {in_bytes(needed)} into {shown(plan.folder)}: checkpoints, pipeline, samples; {in_bytes(free)} free"


def advice_row(plan: Plan, base: Base | None, cost: step_memory.Cost | None, free: int) -> Text | None:
    """What makes the run fit, or shorter."""
    said, advice = [], of(plan.trainer, Advice)
    if cost is not None and not plan.resumed and cost.most(free) < plan.data.batch_size:
        said.append(smaller(plan, cost, free))
    if base is not None and not advice.compiled:
        minutes = minutes_saved(plan.forward_passes(base.told)[0] * base.seconds, plan.on.type)
        if minutes:
            said.append(f"compile=true would make the run about {duration(60 * minutes)} shorter.")
            advice.said = True
    return Text("\n".join(said), style="yellow") if said else None


def smaller(plan: Plan, cost: step_memory.Cost, free: int) -> str:
    """A sentence on how a step that is too large fits into memory."""
    if cost.most(free) == 0:
        return f"Not even one image at a time fits into memory: {SMALLER}"
    batch, pieces = plan.data.batch_size, plan.trainer.accumulate_grad_batches
    fits = step_memory.largest_batch(cost, free, batch)
    return (
        f"A step does not fit into memory. data.batch_size={fits} trainer.accumulate_grad_batches="
        f"{pieces * batch // fits} does and learns the same; so does data.batch_size=auto "
        f"data.effective_batch={batch * pieces}. model.gradient_checkpointing=true needs less for each image."
    )


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
