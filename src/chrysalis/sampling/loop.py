"""The sampling loop: from noise to images, one scheduler step at a time, with any scheduler and any guidance."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.schedulers import Scheduler, step_arguments
from chrysalis.sampling.timesteps import Segments, TimestepSchedule

Hook = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # (x, its timestep or None when clean) -> x


@dataclass(frozen=True)
class Step:
    """The state after one call of the denoiser, of which a second-order scheduler makes two a step.

    i: number of calls before this one. t: its timestep, a scalar. x: the images after the step, scaled as
    alpha x_0 + sigma eps whatever the scheduler's own scaling. x0: the (guided) model's estimate; both [B, C, H, W].
    """

    i: int
    t: torch.Tensor
    x: torch.Tensor
    x0: torch.Tensor


@torch.no_grad()
def trajectory(
    denoiser: Denoiser | Guided,
    schedule: TimestepSchedule,
    x: torch.Tensor,
    generators: list[torch.Generator],
    segments: Segments = (),
    hook: Hook | None = None,
    cond: Mapping | None = None,
) -> Iterator[Step]:
    """Yield every step from x to the end of the last segment, by default clean images.

    Args:
        denoiser: a Denoiser, or a Guided one, which is called alike.
        x: float32 [B, C, H, W] at the noise level of the first segment.
        generators: one for each image, for the noise of stochastic schedulers and of jumps back.
        segments: ranges [first, last) of full steps; by default all of them once. A segment that starts before the
            last one ended is reached by adding noise, and its scheduler has no multistep history.
        hook: called with x and its timestep (None for clean images) after every step; returns the x to continue with.
        cond: the condition of a conditional model, see conditions/conditioner.py.
    """
    i, level = 0, None
    for first, last in segments or [(0, len(schedule))]:
        # 1. A scheduler at the start of the segment, and x at its noise level, in the scheduler's own scaling
        scheduler, timesteps = schedule.segment(first, last)
        extra = step_arguments(scheduler, generators)
        if i:
            eps = seeds.noise(generators, x.shape[1:], x.device)
            x = denoiser.noise.add_more(x, eps, level, timesteps[0].view(1))
        scale = scheduler.scale_model_input(x.new_ones(1), timesteps[0])
        x = x / scale
        # schedulers compare and index with these, which on a GPU would force a synchronization at every step
        on_cpu = torch.stack(timesteps).cpu()
        end = schedule.timestep(last) if last < len(schedule) else None
        for t, t_on_cpu, level in zip(timesteps, on_cpu, [*timesteps[1:], end], strict=True):
            # 2. Ask the denoiser, and take exactly one scheduler step
            predicted = denoiser(scheduler.scale_model_input(x, t), t, cond)
            x = scheduler.step(predicted.for_(scheduler), t_on_cpu, x, **extra).prev_sample
            # 3. Hand out x in the scaling of the forward process
            scale = x.new_ones(1) if level is None else scheduler.scale_model_input(x.new_ones(1), level)
            if hook is not None:
                x = hook(x * scale, level) / scale
            yield Step(i, t, x * scale, predicted.x0)
            i += 1
        x = x * scale


def sample(
    denoiser: Denoiser | Guided,
    scheduler: Scheduler,
    steps: int,
    generators: list[torch.Generator],
    size: tuple[int, int],
    cond: Mapping | None = None,
    advance: Callable[[float], None] = lambda evaluations: None,
) -> torch.Tensor:
    """The last x of a trajectory from noise: float32 [B, C, H, W], about [-1, 1].

    advance: called after each call of the denoiser with its progress; these sum to B * steps.
    """
    schedule = TimestepSchedule(scheduler, steps, denoiser.noise.alphas.device)
    x = seeds.noise(generators, (denoiser.channels, *size), schedule.device)
    part = len(generators) * steps / schedule.evaluations([(0, len(schedule))])
    for step in trajectory(denoiser, schedule, x, generators, cond=cond):
        x = step.x
        advance(part)
    return x
