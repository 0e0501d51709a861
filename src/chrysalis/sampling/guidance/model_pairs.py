"""Guidance by the difference to another model, without training and without a gradient."""

from collections.abc import Mapping
from pathlib import Path

import torch

from chrysalis.conditions.request import Request
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import choose
from chrysalis.diffusion.prediction import Prediction
from chrysalis.models import second_model
from chrysalis.models.model import Model
from chrysalis.sampling.guidance.guided import Push, Term
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Fraction


class Pair(Term):
    """x0 = D + scale (D - D_other), which is D_other + w (D - D_other) with w = 1 + scale.

    Domain guidance (arXiv 2504.01521) when the other is the base model that D was fine-tuned from; autoguidance
    (Karras et al. 2024, arXiv 2406.02507) when it is a worse version of D, such as an earlier checkpoint.
    """

    def __init__(self, other: Denoiser, **settings):
        super().__init__(**settings)
        self.other = other.requires_grad_(False).eval()

    def other_condition(self, cond: Mapping | None, x_t: torch.Tensor) -> Mapping | None:
        """The condition of the other model, which ignores it if it is unconditional."""
        return cond

    def push(self, predicted: Prediction, cond: Mapping | None, strength: float) -> Push:
        """Compute the change away from the other model's x0; its loss is the rms distance of the two x0."""
        with torch.no_grad():
            x_t = predicted.x_t.detach()
            other = self.other.to(x_t.device)(x_t, predicted.t, self.other_condition(cond, x_t))
            difference = predicted.x0 - other.x0
        norm = difference.flatten(1).norm(dim=1)
        return Push(strength * difference, norm / difference[0].numel() ** 0.5, norm)


class ClassifierFree(Pair):
    """x0 = D_null + w (D_cond - D_null) (Ho & Salimans 2022, arXiv 2207.12598): the other is the model with the null.

    Args:
        scale: w; 1 is the condition alone, 0 the null.
        negative: the other's condition in place of the null; None for the null.
        rescale: how far (0 to 1) each image's standard deviation, which a large w increases, is brought back to that
            of D_cond (Lin et al. 2024, arXiv 2305.08891, eq. 14 to 16, here for x_0).
    """

    neutral = 1.0

    def __init__(
        self, other: Denoiser, scale: float = 3.0, rescale: Fraction = 0.0, negative: Request | None = None, **settings
    ):
        super().__init__(other, scale=scale, **settings)
        self.rescale, self.negative = float(rescale), negative

    def other_condition(self, cond: Mapping | None, x_t: torch.Tensor) -> Mapping | None:
        if self.negative is None:
            return None
        n, factor = len(x_t), self.other.codec.factor  # conditions have the size of the images
        size = (factor * x_t.shape[2], factor * x_t.shape[3])
        return self.negative.cond([0] * n, [0] * n, size, x_t.device)

    def push(self, predicted: Prediction, cond: Mapping | None, strength: float) -> Push:
        push = super().push(predicted, cond, strength)
        if self.rescale:
            x0 = predicted.x0.detach()
            guided = x0 + push.change
            ratio = x0.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
            push.change = guided * (1 + self.rescale * (ratio - 1)) - x0
        return push


def denoiser_of(model: Model) -> Denoiser:
    """The model as a denoiser, always frozen: torch rounds some layers differently if weights require gradients."""
    denoiser = Denoiser(model.unet, model.scheduler, choose(model.prediction), model.conditioner, codec=model.family)
    return denoiser.requires_grad_(False).eval()


def cfg(model: Model, negative: Mapping | None = None, **settings) -> ClassifierFree:
    """Classifier-free guidance of a conditional model. negative: what to avoid, {"label": ..., ...}."""
    if model.conditioner is None:
        raise UserError(f"guidance=cfg needs a conditional model, and {model.origin} is unconditional: leave it out.")
    request = Request(model.conditioner, negative or {}, model.origin, "guidance.negative.")
    if request.n_rows > 1:
        raise UserError("guidance.negative has a list of values: give one of each condition.")
    return ClassifierFree(denoiser_of(model), negative=request if request.values else None, **settings)


def domain(model: Model, base: str | None = None, **settings) -> Pair:
    """Guidance away from the base model. base: a diffusers folder or hub id; None for the one that was fine-tuned."""
    return Pair(denoiser_of(second_model.load(model, base, "guidance.domain.base")), **settings)


def autoguidance(model: Model, checkpoint: str, **settings) -> Pair:
    """Guidance away from a worse version of the model: a checkpoint file of its run, or a diffusers folder."""
    load = second_model.from_checkpoint if Path(checkpoint).suffix == ".ckpt" else second_model.load
    return Pair(denoiser_of(load(model, checkpoint, "guidance.autoguidance.checkpoint")), **settings)
