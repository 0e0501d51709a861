"""Model pairs: guided by the difference to another model, without training and without a gradient."""

from collections.abc import Sequence
from pathlib import Path

import torch

from chrysalis import folder
from chrysalis.denoiser import Denoiser
from chrysalis.errors import UserError
from chrysalis.guidance.energies import require_scale, scale_at
from chrysalis.guidance.guided import Push, View
from chrysalis.noise import Noise
from chrysalis.objective import choose


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

    def push(self, view: View, strength: float) -> Push:
        """loss: the rms distance of the two x0."""
        with torch.no_grad():
            x_t = view.x_t.detach()
            other = self.other.to(x_t.device)
            theirs = other.objective.to_x0(other(x_t, view.t), x_t, view.t.view(1), other.noise)
            difference = view.x0.detach() - theirs
        norm = difference.flatten(1).norm(dim=1)
        return Push(strength * difference, norm / difference[0].numel() ** 0.5, norm)


def domain(model: folder.Model, base: str | None = None, **how) -> Pair:
    """Away from the base model. base: a diffusers folder or hub id; None for the one that the run started from."""
    base = base or folder.base_of(model.origin)
    if base is None:
        raise UserError(
            f"guidance.domain.base is not given, and {model.origin} does not say what it was fine-tuned from: "
            "name the base model's folder."
        )
    return Pair(_denoiser(folder.load_beside(model, base, "guidance.domain.base")), **how)


def auto(model: folder.Model, checkpoint: str, **how) -> Pair:
    """Away from a worse version of the model: a checkpoint file of its run, or a diffusers folder."""
    key = "guidance.autoguidance"
    read = folder.from_checkpoint if Path(str(checkpoint)).suffix == ".ckpt" else folder.load_beside
    return Pair(_denoiser(read(model, checkpoint, f"{key}.checkpoint")), key=key, **how)


def _denoiser(other: folder.Model) -> Denoiser:
    return Denoiser(other.unet, other.scheduler, choose(other.prediction))
