"""A guided denoiser is a denoiser: its x_0 is the model's plus the sum of the changes that its terms ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from chrysalis.data.pixels import PixelCodec
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.prediction import Prediction
from chrysalis.system.errors import UserError

Interval = tuple[float | None, float | None]
OverTime = Literal["constant", "early", "late"]


@dataclass
class Push:
    """The change of x0, [B, C, H, W], that a term asks for; its loss and the norm of its gradient, [B] each."""

    change: torch.Tensor
    loss: torch.Tensor
    gradient_norm: torch.Tensor


class Term:
    """Base class of all guidance.

    Args:
        scale: strength of the guidance; a negative one reverses it.
        interval: (lo, hi), acts only at lo < sigma / alpha <= hi (Kynkaanniemi et al. 2024, in EDM's sigma); None for
            no bound.
        schedule: factor on the scale over time: "constant" 1, "early" sigma(t), "late" alpha(t).

    Attributes:
        neutral: the scale that turns it off.
        through_unet: whether its gradient is taken at x_t, through the UNet.
        codec: the denoiser's, which turns x0 into the image that it shows.
        where: file and line of the user's function, if it is one.
    """

    neutral: float = 0.0
    through_unet: bool = False
    where: str | None = None
    codec: PixelCodec = PixelCodec()

    def __init__(self, scale: float = 1.0, interval: Interval = (None, None), schedule: OverTime = "constant"):
        self.scale, self.interval, self.schedule = float(scale), interval, schedule

    def strength(self, t: torch.Tensor, noise: NoiseSchedule) -> float:
        """(Scale minus neutral scale) times the schedule's factor at timestep t, a scalar; 0 outside the interval."""
        alpha, sigma = float(noise.alpha(t.view(1))), float(noise.sigma(t.view(1)))
        low, high = self.interval
        if (low is not None and sigma <= low * alpha) or (high is not None and sigma > high * alpha):
            return 0.0
        return (self.scale - self.neutral) * {"constant": 1.0, "early": sigma, "late": alpha}[self.schedule]

    def push(self, predicted: Prediction, cond: Mapping | None, strength: float) -> Push:
        """Compute the change at this strength; each image's depends on that image alone.

        predicted: in the graph of its x_t if a term goes through the UNet. cond: see conditions/conditioner.py.
        """
        raise NotImplementedError


class Guided(nn.Module):
    """A denoiser with named guidance terms, called like a denoiser; it freezes the UNet's weights.

    Every call adds a row for each active term to `records`: (step, t, its name, loss, gradient_norm, fraction), the
    last three lists of B numbers. fraction: the term's part of the step, ||change of eps|| over the sum of those of all
    terms and of ||eps||.
    """

    __call__: Callable[..., Prediction]  # see Denoiser

    def __init__(self, denoiser: Denoiser, terms: Mapping[str, Term]):
        super().__init__()
        self.denoiser: Denoiser = denoiser.requires_grad_(False)
        self.terms = dict(terms)
        self.noise, self.shape = denoiser.noise, denoiser.shape
        self.begin()
        for name, term in self.terms.items():
            term.codec = denoiser.codec
            low, high = term.interval
            if low is not None and high is not None and low >= high:
                raise UserError(
                    f"guidance.{name}.interval={[low, high]} must be two numbers in sigma / alpha, the smaller first."
                )

    def begin(self) -> None:
        """Clear the records, before a new batch."""
        self.records: list[tuple] = []
        self.evaluations = 0

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> Prediction:
        """Return the denoiser's prediction for x_t float [B, C, H, W] at a scalar timestep t, with its x_0 changed."""
        t = torch.as_tensor(t, device=x_t.device)
        strengths = {name: term.strength(t, self.noise) for name, term in self.terms.items()}
        active = {name: strength for name, strength in strengths.items() if strength}
        self.evaluations += 1
        if not active:
            return self.denoiser(x_t, t, cond)
        with torch.set_grad_enabled(any(self.terms[name].through_unet for name in active)):
            x = x_t.detach().requires_grad_(torch.is_grad_enabled())
            predicted = self.denoiser(x, t, cond)
        pushes = {}
        for name, strength in active.items():
            pushes[name] = self.terms[name].push(predicted, cond, strength)
            self._require_finite(name, pushes[name], t)
        predicted = replace(predicted, out=predicted.out.detach(), x_t=x_t)
        self._record(predicted, pushes)
        return predicted.shifted(torch.stack([push.change for push in pushes.values()]).sum(0))

    def _require_finite(self, name: str, push: Push, t: torch.Tensor) -> None:
        for what, value in (("loss", push.loss), ("gradient", push.gradient_norm)):
            if not value.isfinite().all():
                bad = value[~value.isfinite()][0].item()
                where = self.terms[name].where
                hint = f"Correct the function at {where}." if where else f"Lower guidance.{name}.scale."
                step = f"step {self.evaluations - 1} (t={float(t):g})"
                raise UserError(f"guidance.{name}: the {what} is {bad} at {step}. {hint}")

    def _record(self, predicted: Prediction, pushes: dict[str, Push]) -> None:
        ratio = (self.noise.alpha(predicted.t) / self.noise.sigma(predicted.t)).flatten()  # |d eps / d x0|
        parts = {name: ratio * _rms(push.change) for name, push in pushes.items()}
        total = sum(parts.values()) + _rms(predicted.eps)
        for name, push in pushes.items():
            numbers = [value.tolist() for value in (push.loss, push.gradient_norm, parts[name] / total)]
            self.records.append((self.evaluations - 1, float(predicted.t), name, *numbers))


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(dim=(1, 2, 3)).sqrt()
