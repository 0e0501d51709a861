"""The prediction of a denoiser, which guidance and samplers read as x_0, eps or v without knowing its objective."""

from dataclasses import dataclass, replace

import torch

from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.objective import Objective


@dataclass(frozen=True)
class Prediction:
    """A network's output together with its input, readable as x_0, eps or v.

    out: float32 [B, C, H, W], as `objective` defines it. x_t: [B, C, H, W]. t: timesteps, [B], or [1] for all images.
    """

    out: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor
    noise: NoiseSchedule
    objective: Objective

    @property
    def x0(self) -> torch.Tensor:
        """The expected x_0, unclipped."""
        return self.objective.x0(self.out, self.x_t, self.t, self.noise)

    @property
    def eps(self) -> torch.Tensor:
        return self.objective.eps(self.out, self.x_t, self.t, self.noise)

    @property
    def v(self) -> torch.Tensor:
        """The expected v = alpha eps - sigma x_0 (Salimans & Ho 2022)."""
        if self.objective.name == "v_prediction":
            return self.out
        return self.noise.alpha(self.t) * self.eps - self.noise.sigma(self.t) * self.x0

    def shifted(self, change: torch.Tensor) -> "Prediction":
        """The prediction whose x_0 is larger by `change` at the same x_t, as guidance needs it."""
        return replace(self, out=self.objective.shift(self.out, change, self.t, self.noise))

    def for_scheduler(self, scheduler) -> torch.Tensor:
        """The prediction as a diffusers scheduler's step expects it, by its prediction_type."""
        prediction_type = scheduler.config.prediction_type
        if prediction_type == self.objective.name:
            return self.out
        return getattr(self, {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[prediction_type])
