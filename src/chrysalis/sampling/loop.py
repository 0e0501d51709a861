"""The one loop: from noise to picture, step by step, with any scheduler."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.errors import UserError


@dataclass(frozen=True)
class Step:
    """i: 0-based step. t: its timestep. x: the pictures after it. x0: what the model expects of them; [B, C, H, W]."""

    i: int
    t: torch.Tensor
    x: torch.Tensor
    x0: torch.Tensor


def initial_noise(shape: tuple[int, ...], generators: list[torch.Generator], device: torch.device) -> torch.Tensor:
    """[B, *shape], picture i from generators[i] alone, drawn where the generator lives (as stock pipelines do)."""
    return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators]).to(device)


def evaluations(denoiser: Denoiser, scheduler, steps: int) -> int:
    """Set the scheduler's timesteps; how often the UNet will be asked (twice a step for second-order schedulers)."""
    if not 1 <= steps <= len(denoiser.noise):
        raise UserError(f"steps={steps} must lie between 1 and the {len(denoiser.noise)} timesteps of the model.")
    scheduler.set_timesteps(steps, device=denoiser.noise.alphas.device)
    return len(scheduler.timesteps)


@torch.no_grad()
def trajectory(
    denoiser: Denoiser, scheduler, steps: int, generators: list[torch.Generator], size: tuple[int, int]
) -> Iterator[Step]:
    """Yield every step. scheduler: a diffusers scheduler of its own, not the training one (set_timesteps mutates).

    generators: one a picture; the start, and the noise of stochastic schedulers, come from them in turn.
    """
    device = denoiser.noise.alphas.device
    evaluations(denoiser, scheduler, steps)
    accepts = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in accepts else {}
    channels = denoiser.unet.config.in_channels
    x = initial_noise((channels, *size), generators, device) * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        x_in = scheduler.scale_model_input(x, t)
        out = denoiser(x_in, t)
        # Between training timesteps (Heun, Euler) t is fractional; its noise level is the nearest one's.
        level = t.round().long().clamp(0, len(denoiser.noise) - 1).view(1)
        x0 = denoiser.objective.to_x0(out, x_in, level, denoiser.noise)
        x = scheduler.step(out, t, x, **extra).prev_sample
        yield Step(i, t, x, x0)


def sample(denoiser: Denoiser, scheduler, steps: int, generators: list, size: tuple[int, int]) -> torch.Tensor:
    """The last x: float32 [B, C, H, W], about [-1, 1]."""
    for step in trajectory(denoiser, scheduler, steps, generators, size):
        last = step.x
    return last
