"""data.batch_size=auto: the largest micro-batch that fits in memory, with the same images in an optimizer step."""

from lightning import Trainer

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.system import hardware, memory
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import say
from chrysalis.training import memory_estimate
from chrysalis.training.module import TrainingModule


def fit_batch(data: ImageDataModule, module: TrainingModule, trainer: Trainer) -> None:
    """Resolve data.batch_size=auto, set the trainer's accumulation to match, and print both; leave a number as it is.

    The optimizer sees the same windows of data.effective_batch images whatever is chosen.
    """
    if data.batch_size != "auto":
        return
    if trainer.world_size > 1 or trainer.accumulate_grad_batches != 1:
        other = "trainer.devices" if trainer.world_size > 1 else "trainer.accumulate_grad_batches"
        raise UserError(
            f"data.batch_size=auto does not work with {other}: give data.batch_size as a number, or leave {other}=1 "
            "and give the images of an optimizer step as data.effective_batch."
        )
    cost, free = step_cost(module, trainer, data.size), memory.free(trainer.strategy.root_device)
    batch_size = memory_estimate.largest_batch(cost, free, data.effective_batch)
    data.batch_size, trainer.accumulate_grad_batches = batch_size, data.effective_batch // batch_size
    say(
        f"data.batch_size=auto: {trainer.accumulate_grad_batches} micro-batches of {batch_size} images per step, "
        f"about {memory_estimate.MARGIN * cost.total(batch_size) / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
    )


def step_cost(module: TrainingModule, trainer: Trainer, size: tuple[int, int]) -> memory_estimate.Cost:
    """Bytes of a training step on the trainer's device and in its precision, by the size of the micro-batch."""
    return memory_estimate.cost(
        module.denoiser,
        size,
        precision=hardware.AUTOCAST.get(str(trainer.precision)),
        optimizer_bytes_per_weight=module.optimizer_bytes_per_weight,
        device_type=trainer.strategy.root_device.type,
    )
