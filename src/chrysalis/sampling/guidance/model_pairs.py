"""Model pairs: guided by the difference to another model, without training and without a gradient."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from chrysalis.conditions.request import Request
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.noise import Noise
from chrysalis.diffusion.objective import choose
from chrysalis.models import location, second_model
from chrysalis.models.model import Model
from chrysalis.sampling.guidance.energies import require_scale, scale_at
from chrysalis.sampling.guidance.guided import Push, View
from chrysalis.system.errors import UserError


class Pair:
    """x0 = D + scale (D - D_other), which is D_other + w (D - D_other) with w = 1 + scale.

    Domain guidance (arXiv 2504.01521) when the other is the base model that D was fine-tuned from; autoguidance
    (Karras et al. 2024, arXiv 2406.02507) when it is a worse version of D, such as an earlier checkpoint.
    """

    through_unet = False

    def __init__(
        self,
        other: Denoiser,
        scale: float = 1.0,
        interval: Sequence[float | None] = (None, None),
        schedule: str = "constant",
        key: str = "guidance.domain",
    ):
        require_scale(key, scale, interval, schedule)
        self.other = other.requires_grad_(False).eval()
        self.scale, self.interval, self.schedule = float(scale), tuple(interval), schedule

    def strength(self, t: torch.Tensor, noise: Noise) -> float:
        return scale_at(self.scale, self.interval, self.schedule, t, noise)

    def condition(self, view: View) -> Mapping | None:
        """What the other model is told: the same, if it listens."""
        return view.cond if self.other.conditioner is not None else None

    def push(self, view: View, strength: float) -> Push:
        """loss: the rms distance of the two x0."""
        with torch.no_grad():
            x_t = view.x_t.detach()
            other = self.other.to(x_t.device)
            difference = view.x0.detach() - other(x_t, view.t, self.condition(view)).x0
        norm = difference.flatten(1).norm(dim=1)
        return Push(strength * difference, norm / difference[0].numel() ** 0.5, norm)


class ClassifierFree(Pair):
    """x0 = D_null + w (D_cond - D_null) (Ho & Salimans 2022, arXiv 2207.12598): the other is the model, told nothing.

    scale: w; 1 is the condition alone, 0 the null. negative: what the other is told instead of nothing, or None.
    rescale: how far (0 to 1) the result gets back the spread that D_cond has over each image, which a large w widens
    (Lin et al. 2024, arXiv 2305.08891, eq. 14 to 16, here of x_0).
    """

    def __init__(
        self, denoiser: Denoiser, scale: float = 3.0, rescale: float = 0.0, negative: Request | None = None, **how
    ):
        super().__init__(denoiser, scale, key="guidance.cfg", **how)
        if not isinstance(rescale, int | float) or not 0 <= rescale <= 1:
            raise UserError(f"guidance.cfg.rescale={rescale} must lie between 0 and 1.")
        self.rescale, self.negative = float(rescale), negative

    def strength(self, t: torch.Tensor, noise: Noise) -> float:
        return scale_at(self.scale - 1, self.interval, self.schedule, t, noise)

    def condition(self, view: View) -> Mapping | None:
        if self.negative is None:
            return None
        n, size = len(view.x_t), tuple(view.x_t.shape[2:])
        return self.negative.cond([0] * n, [0] * n, size, view.x_t.device)

    def push(self, view: View, strength: float) -> Push:
        push = super().push(view, strength)
        if self.rescale:
            x0 = view.x0.detach()
            wide = x0 + push.change
            ratio = x0.std(dim=(1, 2, 3), keepdim=True) / wide.std(dim=(1, 2, 3), keepdim=True)
            push.change = wide * (1 + self.rescale * (ratio - 1)) - x0
        return push


def cfg(model: Model, negative: Mapping | None = None, **how) -> ClassifierFree:
    """Classifier-free guidance of a conditional model. negative: what to stay away from, {"label": ..., ...}."""
    if model.conditioner is None:
        raise UserError(f"guidance=cfg needs a model that is told something, and {model.origin} is unconditional.")
    asked = Request(model.conditioner, negative or {}, model.origin, "guidance.negative.")
    if asked.rows > 1:
        raise UserError("guidance.negative: give one value of each, not a list.")
    return ClassifierFree(_denoiser(model), negative=asked if asked.values else None, **how)


def domain(model: Model, base: str | None = None, **how) -> Pair:
    """Away from the base model. base: a diffusers folder or hub id; None for the one that the run started from."""
    base = base or location.base_of(model.origin)
    if base is None:
        raise UserError(
            f"guidance.domain.base is not given, and {model.origin} does not say what it was fine-tuned from: "
            "name the base model's folder."
        )
    return Pair(_denoiser(second_model.load(model, base, "guidance.domain.base")), **how)


def auto(model: Model, checkpoint: str, **how) -> Pair:
    """Away from a worse version of the model: a checkpoint file of its run, or a diffusers folder."""
    key = "guidance.autoguidance"
    read = second_model.from_checkpoint if Path(str(checkpoint)).suffix == ".ckpt" else second_model.load
    return Pair(_denoiser(read(model, checkpoint, f"{key}.checkpoint")), key=key, **how)


def _denoiser(other: Model) -> Denoiser:
    return Denoiser(other.unet, other.scheduler, choose(other.prediction), other.conditioner)
