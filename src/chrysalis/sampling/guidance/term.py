"""A term of guidance: what it may look at, how strong it is, and the change of x_0 that it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from chrysalis.diffusion.noise import Noise
from chrysalis.system.errors import UserError

Interval = tuple[float | None, float | None]
OverTime = Literal["constant", "early", "late"]


@dataclass
class View:
    """What a term may look at.

    x_t, x0: float32 [B, C, H, W]; x0 is the model's estimate, unclipped, in the graph of x_t if a term goes through the
    UNet. t: the timestep, a scalar. cond: the condition, see conditions/conditioner.py.
    """

    x_t: torch.Tensor
    x0: torch.Tensor
    t: torch.Tensor
    noise: Noise
    cond: Mapping | None = None

    @property
    def timesteps(self) -> torch.Tensor:
        """t as [B]."""
        return self.t.expand(len(self.x_t))


@dataclass
class Push:
    """The change of x0, [B, C, H, W], that a term asks for; its loss and the norm of its gradient, [B] each."""

    change: torch.Tensor
    loss: torch.Tensor
    gradient_norm: torch.Tensor


class Term:
    """Base class of all guidance.

    Args:
        key: of its settings, for messages.
        scale: strength of the guidance; 0 turns it off, a negative one reverses it.
        interval: (lo, hi), acts only at lo < sigma / alpha <= hi (Kynkaanniemi et al. 2024, in EDM's sigma); None for
            no bound.
        schedule: factor on the scale over time: "constant" 1, "early" sigma(t), "late" alpha(t).

    Attributes:
        through_unet: whether its gradient is taken at x_t, through the UNet.
        where: file and line of the user's function, if it is one.
    """

    through_unet: bool = False
    where: str | None = None

    def __init__(
        self, key: str, scale: float = 1.0, interval: Interval = (None, None), schedule: OverTime = "constant"
    ):
        low, high = interval
        if low is not None and high is not None and low >= high:
            raise UserError(f"{key}.interval={list(interval)} must be two numbers in sigma / alpha, the smaller first.")
        self.key, self.scale, self.interval, self.schedule = key, float(scale), (low, high), schedule

    def strength(self, t: torch.Tensor, noise: Noise) -> float:
        """The scale at timestep t, a scalar; 0 outside the interval."""
        return self._scheduled(self.scale, t, noise)

    def _scheduled(self, scale: float, t: torch.Tensor, noise: Noise) -> float:
        alpha, sigma = float(noise.alpha(t.view(1))), float(noise.sigma(t.view(1)))
        low, high = self.interval
        if (low is not None and sigma <= low * alpha) or (high is not None and sigma > high * alpha):
            return 0.0
        return scale * {"constant": 1.0, "early": sigma, "late": alpha}[self.schedule]

    def push(self, view: View, strength: float) -> Push:
        """The change at this strength. Each image's depends on that image alone."""
        raise NotImplementedError
