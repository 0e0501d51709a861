"""What a denoiser says of x_t, knowing its noise: the one thing that denoisers, guidance and samplers exchange."""

from dataclasses import dataclass, replace

import torch

from chrysalis.diffusion.noise import Noise
from chrysalis.diffusion.objective import Objective


@dataclass(frozen=True)
class Prediction:
    """A network's output and what it was asked about, readable as x_0, eps or v.

    out: float32 [B, C, H, W], in the terms of `objective`. x_t: [B, C, H, W]. t: timesteps [B], or [1] for all.
    """

    out: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor
    noise: Noise
    objective: Objective

    @property
    def x0(self) -> torch.Tensor:
        """The expected x_0; never clipped."""
        return self.objective.x0(self.out, self.x_t, self.t, self.noise)

    @property
    def eps(self) -> torch.Tensor:
        """The expected eps."""
        return self.objective.eps(self.out, self.x_t, self.t, self.noise)

    @property
    def v(self) -> torch.Tensor:
        """The expected v = alpha eps - sigma x_0 (Salimans & Ho 2022)."""
        if self.objective.name == "v_prediction":
            return self.out
        return self.noise.alpha(self.t) * self.eps - self.noise.sigma(self.t) * self.x0

    def shifted(self, change: torch.Tensor) -> "Prediction":
        """The prediction whose x_0 is larger by `change` at the same x_t; how guidance acts."""
        return replace(self, out=self.objective.shift(self.out, change, self.t, self.noise))

    def for_(self, scheduler) -> torch.Tensor:
        """What a diffusers scheduler's step reads, by its prediction_type."""
        wanted = scheduler.config.prediction_type
        if wanted == self.objective.name:
            return self.out
        return {"epsilon": lambda: self.eps, "sample": lambda: self.x0, "v_prediction": lambda: self.v}[wanted]()
