"""The one loop: from noise to image, step by step, with any scheduler."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from chrysalis.diffusion import seeds
from chrysalis.sampling.schedulers import Timetable, step_arguments


@dataclass(frozen=True)
class Step:
    """i: how often the UNet was asked before. t: its timestep. x: the images after the step, as alpha x_0 + sigma eps
    also where the scheduler scales them otherwise. x0: what the (guided) model expects of them; both [B, C, H, W]."""

    i: int
    t: torch.Tensor
    x: torch.Tensor
    x0: torch.Tensor


@torch.no_grad()
def trajectory(
    denoiser,
    timetable: Timetable,
    x: torch.Tensor,
    generators: list[torch.Generator],
    legs: Sequence[tuple[int, int]] = (),
    paste: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None = None,
    cond: Mapping | None = None,
) -> Iterator[Step]:
    """Yield every step from x, float32 [B, C, H, W] at the level of the first leg; a guided denoiser is a denoiser.

    generators: one an image, for the noise of stochastic schedulers and of jumps. legs: stretches of full steps, all
    once by default; one that starts before the last ended is reached by adding noise, and starts without history.
    paste: called with x and its timestep (None at the end) after every step, to put known pixels back.
    cond: what a conditional model is told, see conditions/conditioner.py.
    """
    i, level = 0, None
    for first, last in legs or [(0, len(timetable))]:
        scheduler, timesteps = timetable.leg(first, last)
        extra = step_arguments(scheduler, generators)
        if i:
            eps = seeds.noise(generators, x.shape[1:], x.device)
            x = denoiser.noise.add_more(x, eps, level, timesteps[0].view(1))
        x = x / scheduler.scale_model_input(x.new_ones(1), timesteps[0])
        # schedulers compare and index with theirs, and would wait for a GPU at every step if it lay there
        theirs = torch.stack(timesteps).cpu()
        for t, at, level in zip(timesteps, theirs, [*timesteps[1:], timetable.level(last)], strict=True):
            x_in = scheduler.scale_model_input(x, t)
            predicted = denoiser(x_in, t, cond)
            x = scheduler.step(predicted.for_(scheduler), at, x, **extra).prev_sample
            scale = x.new_ones(1) if level is None else scheduler.scale_model_input(x.new_ones(1), level)
            if paste is not None:
                x = paste(x * scale, level) / scale
            yield Step(i, t, x * scale, predicted.x0)
            i += 1
        x = x * scale
