"""Images from given seeds during training, with the weights that the module has now."""

from collections.abc import Sequence

import torch

from chrysalis.conditions import batches
from chrysalis.data import pixels
from chrysalis.diffusion import seeds
from chrysalis.sampling import schedulers
from chrysalis.sampling.loop import sample
from chrysalis.system import memory
from chrysalis.system.terminal import stage
from chrysalis.training.callbacks.base import FineTuning, Trainer
from chrysalis.training.callbacks.clock import paused
from chrysalis.training.eval_mode import eval_mode


def generate(
    trainer: Trainer,
    module: FineTuning,
    image_seeds: Sequence[int],
    cond: dict | None,
    scheduler: str,
    steps: int,
    what: str,
    batch_size: int | None = None,
) -> torch.Tensor:
    """uint8 [n, 3, H, W] on the module's device, one image for each seed.

    cond: of all images. scheduler: its name. what: the stage on screen. batch_size: None for all at once.
    """
    n, stepper = len(image_seeds), schedulers.build(module.denoiser.scheduler, scheduler)
    with paused(trainer), eval_mode(trainer, module), stage(what, n * steps) as progress:

        def chunk(places: slice) -> torch.Tensor:
            part = None if cond is None else batches.to_device(batches.rows(cond, range(n)[places]), module.device)
            given = (seeds.generators(image_seeds[places]), trainer.datamodule.size, part, progress.advance)
            return pixels.to_uint8(sample(module.denoiser, stepper, steps, *given))

        return memory.in_batches(chunk, n, batch_size or n, module.device)
