"""Bytes that a run takes: in memory for a step, and on the disk."""

import shutil

import torch

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.training.memory_estimate import tensor_bytes
from chrysalis.training.module import TrainingModule
from chrysalis.training.preflight.plan import Plan

# Counting the memory of a step takes a second: from here on it is worth it, also on a CPU
LARGE_MODEL, LARGE_MICRO_BATCH = 30e6, 2**18  # parameters; pixels


def is_large(plan: Plan) -> bool:
    """Whether it is worth a second to count the memory of a step."""
    height, width = plan.data.size
    many = sum(p.numel() for p in plan.module.parameters()) > LARGE_MODEL
    return plan.device.type != "cpu" or many or plan.batch_size * height * width > LARGE_MICRO_BATCH


def checkpoint_bytes(module: TrainingModule) -> int:
    """Bytes of one checkpoint: the weights, the EMA weights in float32, the optimizer's state."""
    trainable = sum(p.numel() for _, p in module.trainable())
    return tensor_bytes(module.state_dict().values()) + 4 * trainable + int(module.optimizer_bytes * trainable)


def pipeline_bytes(module: TrainingModule, half: bool = False) -> int:
    """Bytes of the exported folder with frozen text encoders. half: its UNet is float16."""
    text = None if module.denoiser.conditioner is None else module.denoiser.conditioner.text
    frozen: list[torch.Tensor] = []
    for encoder in [] if text is None else text.frozen:
        frozen += encoder.model.parameters()
    unet = tensor_bytes(module.denoiser.unet.state_dict().values())
    return tensor_bytes([*module.state_dict().values(), *frozen]) - (unet // 2 if half else 0)


def needed_bytes(module: TrainingModule, samples: int = 0, half: bool = False) -> int:
    """The most bytes that a run has on the disk at once.

    Those of the last, previous and best checkpoint and one that is being written, the pipeline, and `samples`.
    """
    return 4 * checkpoint_bytes(module) + pipeline_bytes(module, half) + samples


def sample_bytes(plan: Plan) -> int:
    """Bytes of the sample grids at most, as files and again in TensorBoard."""
    height, width = plan.data.size
    return 2 * plan.sample_grids * plan.samples.n * 3 * height * width


def disk(plan: Plan) -> tuple[int, int]:
    """(bytes that the run will still write, bytes that are free on its disk)."""
    needed = needed_bytes(plan.module, sample_bytes(plan), plan.half)
    used = sum(p.stat().st_size for p in plan.folder.rglob("*") if p.is_file()) if plan.resumed else 0
    existing = next(p for p in (plan.folder.absolute(), *plan.folder.absolute().parents) if p.is_dir())
    return max(needed - used, checkpoint_bytes(plan.module)), shutil.disk_usage(existing).free


def require_room(plan: Plan) -> None:
    """Raise UserError if the disk has less than the run needs."""
    needed, free = disk(plan)
    if free < needed:
        raise UserError(
            f"{shown(plan.folder)} needs about {in_bytes(needed)} for checkpoints, the pipeline and samples, and "
            f"{in_bytes(free)} are free there. Make room, or start the run in a folder on another disk."
        )


def in_bytes(n: float) -> str:
    """'130 MB', '1.2 GB'."""
    return f"{n / 1e9:.1f} GB" if n >= 0.9995e9 else f"{max(1, n / 1e6):.0f} MB"
