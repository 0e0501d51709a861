"""What the UNet predicts: eps, v or x_0, one class each, with the conversion of its output to x_0 and eps."""

from typing import Protocol

import torch

from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.system.errors import UserError


class Objective(Protocol):
    """A regression target and its inverse. out, x0, eps, x_t: [B, C, H, W]; t: timesteps [B] or [1].

    name: diffusers' `prediction_type`. target: what the output is compared with. x0, eps: what an output implies, x0
    unclipped. shift: the output that implies the x0 of `out` plus `change` at the same x_t; every objective is linear
    in x0 there, so no conversion to x0 and back is needed. snr_factor: the squared error of an output divided by that
    of the x0 it implies, [B].
    """

    name: str

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, noise: NoiseSchedule) -> torch.Tensor: ...
    def x0(self, out: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: NoiseSchedule) -> torch.Tensor: ...
    def eps(self, out: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: NoiseSchedule) -> torch.Tensor: ...
    def shift(self, out: torch.Tensor, change: torch.Tensor, t: torch.Tensor, noise: NoiseSchedule) -> torch.Tensor: ...
    def snr_factor(self, snr: torch.Tensor) -> torch.Tensor: ...


class Epsilon:
    """Predict eps (Ho et al. 2020)."""

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
    """Predict v = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv 2202.00512)."""

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
    """Predict x_0."""

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
PREDICTION_TYPES = {short: cls.name for short, cls in OBJECTIVES.items()}  # diffusers' names


def objective(name: str) -> Objective:
    """The objective called eps, v or x0, or in diffusers epsilon, v_prediction or sample."""
    for short, cls in OBJECTIVES.items():
        if name in (short, cls.name):
            return cls()
    raise UserError(f"objective={name} is unknown: choose {', '.join(OBJECTIVES)}.")


def choose(pretrained: str | None, prediction: str = "auto") -> Objective:
    """The objective called `prediction`, which must be the pretrained model's; `auto`: that one, or eps from scratch.

    pretrained: diffusers' prediction type of the pretrained model; None for a model trained from scratch.
    """
    chosen = objective((pretrained or "epsilon") if prediction == "auto" else prediction)
    if pretrained not in (None, chosen.name):
        own = next(short for short, name in PREDICTION_TYPES.items() if name == pretrained)
        raise UserError(
            f"objective={prediction}, but the pretrained model predicts {own}: leave objective=auto, or start from "
            "model=scratch."
        )
    return chosen
