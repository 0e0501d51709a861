"""What the UNet predicts: eps, v or x0, each one class; how to read x_0 and eps off its output."""

from typing import Protocol

import torch

from chrysalis.diffusion.noise import Noise
from chrysalis.system.errors import UserError


class Objective(Protocol):
    """A regression target and its inverse. out, x0, eps, x_t: [B, C, H, W]; t: timesteps [B] or [1].

    name: diffusers' `prediction_type`.
    """

    name: str

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """What the output is compared with."""

    def x0(self, out: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The x_0 that an output stands for; never clipped."""

    def eps(self, out: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The eps that an output stands for."""

    def shift(self, out: torch.Tensor, change: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The output whose x_0 is that of `out` plus `change`, at the same x_t.

        Each objective is linear in x_0 at a given x_t, so nothing is converted there and back.
        """

    def snr_factor(self, snr: torch.Tensor) -> torch.Tensor:
        """The squared error of an output over the squared error of the x_0 it stands for, [B]."""


class Epsilon:
    """eps itself (Ho et al. 2020)."""

    name = "epsilon"

    def target(self, x0, eps, t, noise):
        return eps

    def x0(self, out, x_t, t, noise):
        return (x_t - noise.sigma(t) * out) / noise.alpha(t)

    def eps(self, out, x_t, t, noise):
        return out

    def shift(self, out, change, t, noise):
        return out - noise.alpha(t) / noise.sigma(t) * change

    def snr_factor(self, snr):
        return snr


class Velocity:
    """v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512)."""

    name = "v_prediction"

    def target(self, x0, eps, t, noise):
        return noise.alpha(t) * eps - noise.sigma(t) * x0

    def x0(self, out, x_t, t, noise):
        return noise.alpha(t) * x_t - noise.sigma(t) * out

    def eps(self, out, x_t, t, noise):
        return noise.alpha(t) * out + noise.sigma(t) * x_t

    def shift(self, out, change, t, noise):
        return out - change / noise.sigma(t)

    def snr_factor(self, snr):
        return snr + 1


class X0:
    """x_0 itself."""

    name = "sample"

    def target(self, x0, eps, t, noise):
        return x0

    def x0(self, out, x_t, t, noise):
        return out

    def eps(self, out, x_t, t, noise):
        return (x_t - noise.alpha(t) * out) / noise.sigma(t)

    def shift(self, out, change, t, noise):
        return out + change

    def snr_factor(self, snr):
        return torch.ones_like(snr)


OBJECTIVES = {"eps": Epsilon, "v": Velocity, "x0": X0}
SHORT = {short: cls.name for short, cls in OBJECTIVES.items()}


def objective(name: str) -> Objective:
    """The objective of a name: eps, v, x0, or diffusers' epsilon, v_prediction, sample."""
    for short, cls in OBJECTIVES.items():
        if name in (short, cls.name):
            return cls()
    raise UserError(f"objective={name} is unknown: choose {', '.join(OBJECTIVES)}.")


def choose(pretrained: str | None, prediction: str = "auto") -> Objective:
    """A pretrained model's own objective (`auto`, or the same by name); of a new model (None) the one asked for."""
    if prediction == "auto":
        return objective(pretrained or "epsilon")
    asked = objective(prediction)
    if pretrained not in (None, asked.name):
        own = next(short for short, long in SHORT.items() if long == pretrained)
        raise UserError(
            f"objective={prediction}, but the pretrained model predicts {own}: leave objective=auto, or start from "
            "model=scratch."
        )
    return asked
