"""Bytes that a run takes on the disk."""

import shutil

from rich.filesize import decimal

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.training.memory_estimate import frozen_encoders, tensor_bytes
from chrysalis.training.module import FineTuning
from chrysalis.training.preflight.plan import Plan


def checkpoint_bytes(module: FineTuning) -> int:
    """Bytes of one checkpoint: the weights, the EMA weights in float32, the optimizer's state."""
    trainable = sum(p.numel() for _, p in module.trainable())
    return tensor_bytes(module.state_dict().values()) + 4 * trainable + int(module.optimizer_bytes * trainable)


def needed_bytes(plan: Plan) -> int:
    """The most bytes that a run has on the disk at once.

    Those of the last, previous and best checkpoint and one that is being written; of the exported folder, with its
    frozen text encoders; and of the sample grids, as files and again in TensorBoard.
    """
    module, samples, (height, width) = plan.module, plan.samples, plan.data.size
    encoders = [p for encoder in frozen_encoders(module.denoiser) for p in encoder.model.parameters()]
    pipeline = tensor_bytes([*module.state_dict().values(), *encoders])
    if plan.half:
        pipeline -= tensor_bytes(module.denoiser.unet.state_dict().values()) // 2
    grids = 1 + -(-(plan.steps or 0) // samples.every_n_train_steps)
    return 4 * checkpoint_bytes(module) + pipeline + 2 * grids * samples.n * 3 * height * width


def disk(plan: Plan) -> tuple[int, int]:
    """(bytes that the run will still write, bytes that are free on its disk)."""
    used = sum(p.stat().st_size for p in plan.folder.rglob("*") if p.is_file()) if plan.resumed else 0
    existing = next(p for p in (plan.folder.absolute(), *plan.folder.absolute().parents) if p.is_dir())
    return max(needed_bytes(plan) - used, checkpoint_bytes(plan.module)), shutil.disk_usage(existing).free


def require_room(plan: Plan) -> None:
    """Raise UserError if the disk has less than the run needs."""
    needed, free = disk(plan)
    if free < needed:
        raise UserError(
            f"{shown(plan.folder)} needs about {decimal(needed)} for checkpoints, the pipeline and samples, and "
            f"{decimal(free)} are free there. Make room, or start the run in a folder on another disk."
        )
