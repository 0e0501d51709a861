"""What a run takes: memory of a step, and room on the disk."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from chrysalis.system import hardware
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.training import step_memory
from chrysalis.training.module import FineTuning
from chrysalis.training.preflight.plan import Plan

LARGE = 30e6, 2**18  # parameters, and pixels of a micro-batch, from which on memory is counted: that takes a second


def is_large(plan: Plan) -> bool:
    """Whether it is worth a second to count the memory."""
    parameters, at_once = LARGE
    height, width = plan.data.size
    many = sum(p.numel() for p in plan.module.parameters()) > parameters
    return plan.on.type != "cpu" or many or plan.data.batch_size * height * width > at_once


def memory_cost(plan: Plan) -> step_memory.Cost:
    """Bytes of a training step, by the size of its micro-batch."""
    autocast = hardware.AUTOCAST.get(str(plan.trainer.precision))
    how = {"precision": autocast, "optimizer_bytes_per_weight": plan.module.optimizer_bytes, "on": plan.on.type}
    return step_memory.cost(plan.module.denoiser, plan.data.size, **how)


def checkpoint_bytes(module: FineTuning) -> int:
    """Of one checkpoint: the weights, their average in float32, the optimizer's state."""
    learning = sum(p.numel() for _, p in module.trainable())
    return _bytes(module.state_dict().values()) + 4 * learning + int(module.optimizer_bytes * learning)


def pipeline_bytes(module: FineTuning, half: bool = False) -> int:
    """Of the exported folder, frozen text encoders among it. half: its UNet is float16."""
    text = None if module.denoiser.conditioner is None else module.denoiser.conditioner.text
    frozen = [] if text is None else [p for encoder in text.frozen for p in encoder.model.parameters()]
    unet = _bytes(module.denoiser.unet.state_dict().values())
    return _bytes([*module.state_dict().values(), *frozen]) - (unet // 2 if half else 0)


def needed_bytes(module: FineTuning, samples: int = 0, half: bool = False) -> int:
    """The most that a run has on the disk at once: last, previous and best checkpoint and one that is being written,
    the pipeline, and `images` bytes of samples."""
    return 4 * checkpoint_bytes(module) + pipeline_bytes(module, half) + samples


def image_bytes(plan: Plan) -> int:
    """Of the sample sheets, at most, as files and again in TensorBoard."""
    height, width = plan.data.size
    return 2 * plan.drawings * plan.samples.n * 3 * height * width


def disk(plan: Plan) -> tuple[int, int]:
    """(bytes that the run will still write, bytes that are free where it lies)."""
    needed = needed_bytes(plan.module, image_bytes(plan), plan.half)
    there = sum(p.stat().st_size for p in plan.folder.rglob("*") if p.is_file()) if plan.resumed else 0
    return max(needed - there, checkpoint_bytes(plan.module)), shutil.disk_usage(_existing(plan.folder)).free


def require_room(plan: Plan) -> None:
    """Raises UserError where the disk has less than the run needs."""
    needed, free = disk(plan)
    if free < needed:
        raise UserError(
            f"{shown(plan.folder)} needs about {in_bytes(needed)} for checkpoints, the pipeline and samples, and "
            f"{in_bytes(free)} are free there. Make room, or start the run in a folder on another disk."
        )


def in_bytes(n: float) -> str:
    """'130 MB', '1.2 GB'."""
    return f"{n / 1e9:.1f} GB" if n >= 0.9995e9 else f"{max(1, n / 1e6):.0f} MB"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one around it that is there."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
