"""data.batch_size=auto: the largest micro-batch that memory allows, with the same images in an optimizer step."""

from lightning import Trainer

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.system import hardware, memory
from chrysalis.system.errors import UserError
from chrysalis.training import step_memory
from chrysalis.training.module import FineTuning


def fit_batch(data: ImageDataModule, module: FineTuning, trainer: Trainer) -> str | None:
    """Settle batch_size=auto and the trainer's accumulation; returns a sentence about it, None if a number was given.

    The optimizer sees the same windows of data.effective_batch images whatever is chosen.
    """
    if data.batch_size != "auto":
        return None
    if trainer.world_size > 1 or trainer.accumulate_grad_batches != 1:
        other = "trainer.devices" if trainer.world_size > 1 else "trainer.accumulate_grad_batches"
        raise UserError(
            f"data.batch_size=auto does not work with {other}: give data.batch_size as a number, or leave {other}=1 "
            "and give the images of an optimizer step as data.effective_batch."
        )
    on = trainer.strategy.root_device
    autocast = hardware.AUTOCAST.get(str(trainer.precision))
    how = {"precision": autocast, "optimizer_bytes_per_weight": module.optimizer_bytes, "on": on.type}
    needed, free = step_memory.cost(module.denoiser, data.size, **how), memory.free(on)
    data.batch_size = step_memory.largest_batch(needed, free, data.effective_batch)
    trainer.accumulate_grad_batches = data.effective_batch // data.batch_size
    counted = step_memory.MARGIN * needed.total(data.batch_size) / 1e9
    return (
        f"data.batch_size=auto: micro-batches of {data.batch_size}, {trainer.accumulate_grad_batches} an optimizer "
        f"step; counted {counted:.1f} GB of {free / 1e9:.1f} GB free"
    )
