"""The sampling loop: from noise to images, one scheduler step at a time, with any scheduler and any guidance."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.schedulers import Scheduler, step_arguments
from chrysalis.sampling.timesteps import Segments, TimestepSchedule

Hook = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # (x, its timestep; None: clean) -> x


@dataclass(frozen=True)
class Step:
    """One call of the denoiser and of the scheduler; a full step of a second-order scheduler consists of two.

    i: number of calls before this one. t: timestep of the call, a scalar. x: the images after it, [B, C, H, W], as
    alpha x_0 + sigma eps whatever the scheduler's own scaling. x0: the estimate of x_0, guidance included.
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
        denoiser: a Denoiser, or a Guided one, which is called in the same way.
        x: float32 [B, C, H, W] at the noise level of the first segment.
        generators: one for each image, for the noise that stochastic schedulers and repeated segments add.
        segments: ranges [first, last) of full steps; by default all of them once. A segment that starts before the end
            of the previous one is reached by adding noise; each begins without multistep history.
        hook: called with x and its timestep (None for clean images) after every step; returns the x to continue with.
        cond: the condition of a conditional model, see conditions/conditioner.py.
    """
    i, level = 0, None  # level: the timestep at whose noise level x is; None: clean
    for first, last in segments or [(0, len(schedule))]:
        # 1. Set a scheduler to the segment's start, and bring x to that noise level and to the scheduler's scaling
        scheduler, timesteps = schedule.segment(first, last)
        extra = step_arguments(scheduler, generators)
        if i:
            eps = seeds.noise(generators, x.shape[1:], x.device)
            x = denoiser.noise.add_more(x, eps, level, timesteps[0].view(1))
        scale = scheduler.scale_model_input(x.new_ones(1), timesteps[0])
        x = x / scale
        # schedulers compare timesteps and index with them: on a GPU that would force a synchronization at every step
        on_cpu = torch.stack(timesteps).cpu()
        end = schedule.timestep(last) if last < len(schedule) else None
        for t, t_on_cpu, level in zip(timesteps, on_cpu, [*timesteps[1:], end], strict=True):
            # 2. Evaluate the denoiser and take exactly one scheduler step
            predicted = denoiser(scheduler.scale_model_input(x, t), t, cond)
            x = scheduler.step(predicted.for_scheduler(scheduler), t_on_cpu, x, **extra).prev_sample
            # 3. Yield x as alpha x_0 + sigma eps
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
    advance: Callable[[float], None] = lambda part: None,
) -> torch.Tensor:
    """Sample B images from noise: the last x of their trajectory, float32 [B, C, H, W], about [-1, 1].

    advance: called after each call of the denoiser with its part of the work; the parts sum to B * steps.
    """
    schedule = TimestepSchedule(scheduler, steps, denoiser.noise.alphas.device)
    x = seeds.noise(generators, denoiser.shape(size), schedule.device)
    part = len(generators) * steps / schedule.evaluations([(0, len(schedule))])
    for step in trajectory(denoiser, schedule, x, generators, cond=cond):
        x = step.x
        advance(part)
    return x
