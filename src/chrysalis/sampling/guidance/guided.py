"""A guided denoiser is a denoiser: its x_0 is the model's, moved by the sum of what its terms ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from chrysalis.diffusion.noise import Noise
from chrysalis.diffusion.prediction import Prediction
from chrysalis.system.errors import UserError


@dataclass
class View:
    """What a term may look at. x_t, x0: float32 [B, C, H, W] (x0 unclipped, in the graph of x_t if a term goes
    through the UNet). t: the timestep, a scalar tensor. cond: what the model is told (conditions/conditioner.py)."""

    x_t: torch.Tensor
    x0: torch.Tensor
    t: torch.Tensor
    noise: Noise
    cond: object = None

    @property
    def timesteps(self) -> torch.Tensor:
        """t as [B]."""
        return self.t.expand(len(self.x_t))


@dataclass
class Push:
    """What one term asks for. change: of x0, [B, C, H, W]. loss, gradient_norm: [B]."""

    change: torch.Tensor
    loss: torch.Tensor
    gradient_norm: torch.Tensor


class Term(Protocol):
    """scale: 0 does nothing. through_unet: whether its gradient is taken at x_t, through the UNet."""

    scale: float
    through_unet: bool

    def strength(self, t: torch.Tensor, noise: Noise) -> float: ...

    def push(self, view: View, strength: float) -> Push: ...


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(dim=(1, 2, 3)).sqrt()


class Guided(nn.Module):
    """denoiser and named terms; called as a denoiser is. The UNet's weights are frozen by it.

    After every call `records` has one more row {"step", "t", name: {"loss": [B], "gradient_norm": [B], "share": [B]}}.
    share: the term's part of the step, ||eps change|| over the sum of those of all terms and of the model's eps.
    """

    def __init__(self, denoiser, terms: Mapping[str, Term]):
        super().__init__()
        self.denoiser, self.terms = denoiser.requires_grad_(False), dict(terms)
        self.noise, self.objective, self.unet = denoiser.noise, denoiser.objective, denoiser.unet
        self.channels = denoiser.channels
        self.begin()

    def begin(self) -> None:
        """Forget the records: new images follow."""
        self.records: list[dict] = []
        self.asked = 0

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> Prediction:
        """The denoiser's prediction from x_t float [B, C, H, W] at a scalar timestep t, with its x_0 moved."""
        t = torch.as_tensor(t, device=x_t.device)
        strengths = {name: term.strength(t, self.noise) for name, term in self.terms.items()}
        active = {name: strength for name, strength in strengths.items() if strength}
        self.asked += 1
        if not active:
            return self.denoiser(x_t, t, cond)
        with torch.set_grad_enabled(any(self.terms[name].through_unet for name in active)):
            x = x_t.detach().requires_grad_(torch.is_grad_enabled())
            predicted = self.denoiser(x, t, cond)
            view = View(x, predicted.x0, t, self.noise, cond)
        pushes = {}
        for name, strength in active.items():
            pushes[name] = self.terms[name].push(view, strength)
            self._require_finite(name, pushes[name], t)
        predicted = replace(predicted, out=predicted.out.detach(), x_t=x_t)
        self._record(predicted, pushes)
        return predicted.shifted(torch.stack([push.change for push in pushes.values()]).sum(0))

    def _require_finite(self, name: str, push: Push, t: torch.Tensor) -> None:
        for what, value in (("loss", push.loss), ("gradient", push.gradient_norm)):
            if not value.isfinite().all():
                at = f"step {self.asked - 1} (t={float(t):g})"
                where = getattr(self.terms[name], "where", None)
                source = f" It comes from {where}." if where else ""
                raise UserError(f"guidance.{name}: the {what} is {_first_bad(value)} at {at}.{source}")

    def _record(self, predicted: Prediction, pushes: dict[str, Push]) -> None:
        ratio = (self.noise.alpha(predicted.t) / self.noise.sigma(predicted.t)).flatten()  # of changes in eps and x0
        parts = {name: ratio * _rms(push.change) for name, push in pushes.items()}
        total = sum(parts.values()) + _rms(predicted.eps)
        row: dict = {"step": self.asked - 1, "t": float(predicted.t)}
        for name, push in pushes.items():
            figures = {"loss": push.loss, "gradient_norm": push.gradient_norm, "share": parts[name] / total}
            row[name] = {key: value.tolist() for key, value in figures.items()}
        self.records.append(row)


def _first_bad(values: torch.Tensor) -> str:
    return str(values[~values.isfinite()][0].item())
