"""Weights of timesteps in the training loss: a callable (t [B], noise, objective) -> float32 [B]."""

from collections.abc import Callable

import torch

from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.objective import Objective
from chrysalis.system.ranges import PositiveNumber

Weighting = Callable[[torch.Tensor, NoiseSchedule, Objective], torch.Tensor]


class Uniform:
    """A weight of 1 everywhere: the plain MSE of the UNet's output."""

    def __call__(self, t: torch.Tensor, noise: NoiseSchedule, objective: Objective) -> torch.Tensor:
        return torch.ones_like(noise.snr(t))


class MinSNR:
    """min(SNR, gamma) as the weight of the squared error in x_0 (Hang et al. 2023, arXiv 2303.09556)."""

    def __init__(self, snr_gamma: PositiveNumber = 5.0):
        self.snr_gamma = snr_gamma

    def __call__(self, t: torch.Tensor, noise: NoiseSchedule, objective: Objective) -> torch.Tensor:
        snr = noise.snr(t)
        factor = objective.snr_factor(snr)
        weight = snr.clamp(max=self.snr_gamma) / factor.clamp(min=torch.finfo(snr.dtype).tiny)
        # with zero terminal SNR both are 0 for eps, and their ratio tends to 1
        return torch.where(factor > 0, weight, torch.ones_like(weight))
