"""Energies: losses on the image that the model expects, whose gradient moves it. Each asks for one thing.

Sampling from p(x_0) exp(-E(x_0)) needs grad_{x_t} log E[exp(-E(x_0)) | x_t], for which the ways below stand in.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

import torch
from PIL import ImageColor
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.image_file import ImageFile
from chrysalis.diffusion import seeds
from chrysalis.diffusion.noise import Noise
from chrysalis.sampling.guidance.guided import Push, View
from chrysalis.system.errors import UserError, require_whole

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Energy:
    """loss(x0, t, cond) -> [B], and how its gradient acts.

    scale: how strongly; 0 not at all, negative the other way.
    at: where the gradient is taken. "x_t" goes through the UNet (DPS, Chung et al. 2023; universal guidance, Bansal et
        al. 2023), "x0" does not (MPGD, He et al. 2024), for a fraction of memory and time; "noisy" gives x_t itself to
        the loss, without the UNet.
    interval: acts only at lo < sigma / alpha <= hi (Kynkaanniemi et al. 2024, in EDM's sigma); null for no bound.
    schedule: the scale over the way: "constant", "early" (times sigma(t)) or "late" (times alpha(t)).
    gradient: how far x0 moves at scale 1. "per_pixel": by sigma^2 times the gradient at x0 times C H W, so that a mean
        over pixels acts alike at every size; of "x_t" only the direction is taken, so that a scale means the same both
        ways. "unit": by sigma^2 (rms) in that direction, however large the loss. "raw": by sigma^2 / alpha grad_{x_t},
        or sigma^2 grad_{x_0}, which is Bayes' rule for an energy that is -log p.
    clip: the largest rms by which x0 (in [-1, 1]) moves at one step; null for no bound.
    smoothing: over how many noisy copies of x0 the loss is averaged, as -log mean exp(-loss) (LGD, Song et al. 2023);
        0 for x0 itself.
    """

    def __init__(
        self,
        scale: float = 1.0,
        at: Literal["x0", "x_t", "noisy"] = "x0",
        interval: Sequence[float | None] = (None, None),
        schedule: Literal["constant", "early", "late"] = "constant",
        gradient: Literal["per_pixel", "raw", "unit"] = "per_pixel",
        clip: float | None = 1.0,
        smoothing: int = 0,
    ):
        key = f"guidance.{type(self).__name__.lower()}"
        for name, value, known in (
            ("at", at, ("x0", "x_t", "noisy")),
            ("gradient", gradient, ("per_pixel", "raw", "unit")),
        ):
            if value not in known:
                raise UserError(f"{key}.{name}={value} is unknown: choose {', '.join(known)}.")
        require_scale(key, scale, interval, schedule)
        if clip is not None and (not isinstance(clip, int | float) or clip <= 0):
            raise UserError(f"{key}.clip={clip} must be a number above 0, or null for no bound.")
        require_whole(f"{key}.smoothing", smoothing, least=0)
        self.scale, self.at, self.schedule, self.gradient = float(scale), at, schedule, gradient
        self.interval, self.clip, self.smoothing = tuple(interval), clip, smoothing
        self.through_unet = at == "x_t"

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        """x0 float [B, 3, H, W], about [-1, 1]; t [B] -> [B]."""
        raise NotImplementedError

    def strength(self, t: torch.Tensor, noise: Noise) -> float:
        """The scale at this timestep."""
        return scale_at(self.scale, self.interval, self.schedule, t, noise)

    def push(self, view: View, strength: float) -> Push:
        """The change of x0 that this energy asks for. Each image's depends on that image alone."""
        sigma = view.noise.sigma(view.t.view(1))
        loss, grad, at_x0 = self._gradients(view, float(sigma))
        norm, size = grad.flatten(1).norm(dim=1), grad[0].numel()
        if self.gradient == "raw":
            change = grad if self.at == "x0" else grad / view.noise.alpha(view.t.view(1))
        else:
            change = grad / (norm / math.sqrt(size)).clamp(min=1e-30).view(-1, 1, 1, 1)  # rms 1
            if self.gradient == "per_pixel":
                change = change * (at_x0.flatten(1).norm(dim=1) * math.sqrt(size)).view(-1, 1, 1, 1)
        change = -strength * sigma**2 * change
        if self.clip is not None:
            rms = change.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            change = change * (self.clip / rms.clamp(min=1e-20)).clamp(max=1)
        return Push(change, loss.detach(), norm)

    def _gradients(self, view: View, sigma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(loss [B], its gradient where `at` says, its gradient at what the loss looked at)."""
        with torch.enable_grad():
            seen = view.x0 if self.through_unet else (view.x_t if self.at == "noisy" else view.x0)
            if not self.through_unet:
                seen = seen.detach().requires_grad_()
            loss = self._smoothed(seen.clone(), view, sigma)  # a loss may change its argument in place
            (at_seen,) = self._differentiated(loss, seen)
            if at_seen is None:
                raise UserError(f"{self.name()}: the loss does not depend on the image.")
            if not self.through_unet:
                return loss, at_seen, at_seen
            (at_x_t,) = torch.autograd.grad(view.x0, view.x_t, at_seen, retain_graph=True)
            return loss, at_x_t, at_seen

    def _differentiated(self, loss: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor | None]:
        if not loss.requires_grad:
            return (None,)
        try:
            return torch.autograd.grad(loss.sum(), seen, allow_unused=True)
        except Exception as error:  # the user's own backward can raise anything
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"{self.name()}: the loss has no gradient: {why}") from error

    def name(self) -> str:
        """What a message calls it; of a function of the user's, its file and line."""
        return f"guidance.{type(self).__name__.lower()}"

    def _smoothed(self, x0: torch.Tensor, view: View, sigma: float) -> torch.Tensor:
        if not self.smoothing:
            return self.loss(x0, view.timesteps, view.cond)
        keys = [seeds.key("smoothing", float(view.t), j) for j in range(self.smoothing)]
        copies = [x0 + sigma * xi for xi in seeds.normal(keys, x0.shape[1:]).to(x0.device)]
        losses = torch.stack([self.loss(copy, view.timesteps, view.cond) for copy in copies])
        return math.log(len(copies)) - torch.logsumexp(-losses, dim=0)


def require_scale(key: str, scale: float, interval: Sequence, schedule: str) -> None:
    """Refuse what scale_at cannot use, by its key."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise UserError(f"{key}.scale={scale} must be a number.")
    if schedule not in ("constant", "early", "late"):
        raise UserError(f"{key}.schedule={schedule} is unknown: choose constant, early, late.")
    if not isinstance(interval, Sequence) or len(interval) != 2 or isinstance(interval, str):
        raise UserError(f"{key}.interval={interval} must be [lo,hi] in sigma / alpha, with null for no bound.")
    low, high = interval
    if any(end is not None and not isinstance(end, int | float) for end in (low, high)) or (
        None not in (low, high) and low >= high
    ):
        raise UserError(f"{key}.interval={list(interval)} must be two numbers in sigma / alpha, the smaller first.")


def scale_at(scale: float, interval: Sequence, schedule: str, t: torch.Tensor, noise: Noise) -> float:
    """The scale at timestep t: 0 outside lo < sigma / alpha <= hi, else constant or times sigma(t) or alpha(t)."""
    alpha, sigma = float(noise.alpha(t.view(1))), float(noise.sigma(t.view(1)))
    low, high = interval
    if (low is not None and sigma <= low * alpha) or (high is not None and sigma > high * alpha):
        return 0.0
    return scale * {"constant": 1.0, "early": sigma, "late": alpha}[schedule]


class Colour(Energy):
    """A target colour, or the colours of a palette image; how bright each place is stays the model's own choice.

    target: "rrggbb", a CSS name, or an image's path. A colour: half the mean squared distance of all pixels' chroma.
    An image: sliced Wasserstein distance between the two sets of colours (Bonneel et al. 2015).
    """

    def __init__(self, target: str, **how):
        super().__init__(**how)
        try:
            # a "#" typed on the command line would have to be quoted for Hydra
            bare = re.fullmatch(r"[0-9a-fA-F]{6}", str(target))
            rgb = ImageColor.getrgb(f"#{target}" if bare else str(target))[:3]
            self.colour, self.palette = pixels.to_signed(torch.tensor(rgb)), None
        except ValueError:
            key = "guidance.colour.target"
            if not any(c in str(target) for c in "./\\"):
                raise UserError(f"{key}={target} is neither a colour (rrggbb or a CSS name) nor an image.") from None
            self.colour, self.palette = None, ImageFile(target, key)

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        if self.palette is not None:
            return self._palette_distance(x0)
        grey = x0.new_tensor(LUMA).view(1, 3, 1, 1)
        target = self.colour.to(x0).view(1, 3, 1, 1)
        chroma = x0 - (x0 * grey).sum(1, keepdim=True)
        return (chroma - (target - (target * grey).sum(1, keepdim=True))).square().mean(dim=(1, 2, 3)) / 2

    def _palette_distance(self, x0: torch.Tensor) -> torch.Tensor:
        directions = F.normalize(seeds.normal([seeds.key("palette", j) for j in range(16)], (3,)), dim=1).to(x0)
        ours = torch.einsum("kc,bcn->bkn", directions, x0.flatten(2)).sort(dim=2).values
        palette = self.palette.spread_over(tuple(x0.shape[-2:])).to(x0)
        theirs = torch.einsum("kc,bcn->bkn", directions, palette.flatten(2)).sort(dim=2).values
        return (ours - theirs).square().mean(dim=(1, 2)) * 3 / 2


class Brightness(Energy):
    """Mean luma, from 0 (black) to 1 (white): half the squared distance to the target."""

    def __init__(self, target: float, **how):
        super().__init__(**how)
        if not isinstance(target, int | float) or not 0 <= target <= 1:
            raise UserError(f"guidance.brightness.target={target} must lie between 0 (black) and 1 (white).")
        self.target = float(target)

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        luma = (x0 * x0.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1)
        return (luma.mean(dim=(1, 2)) - (2 * self.target - 1)).square() / 2


class Symmetry(Energy):
    """Half the mean squared distance to the nearest image that is its own mirror image, left and right."""

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        return (x0 - x0.flip(-1)).square().mean(dim=(1, 2, 3)) / 8


class Silhouette(Energy):
    """A mask image, white where the subject is to be: outside it one even background, inside nothing like it."""

    def __init__(self, mask: str, contrast: float = 0.6, **how):
        super().__init__(**how)
        self.contrast = float(contrast)
        self.mask = ImageFile(mask, "guidance.silhouette.mask")

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        inside = self.mask.mask_at(tuple(x0.shape[-2:])).to(x0)
        outside = 1 - inside
        background = (x0 * outside).sum(dim=(2, 3), keepdim=True) / outside.sum()
        distance = (x0 - background).square().mean(1, keepdim=True)
        too_near = (self.contrast - (distance + 1e-6).sqrt()).clamp(min=0).square()
        return (distance * outside + too_near * inside).mean(dim=(1, 2, 3)) / 2


class Sharpness(Energy):
    """Total variation: the mean distance of neighbouring pixels. A positive scale sharpens, a negative one smooths."""

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        down = (x0.diff(dim=2).square().sum(1) + 1e-4).sqrt().mean(dim=(1, 2))
        across = (x0.diff(dim=3).square().sum(1) + 1e-4).sqrt().mean(dim=(1, 2))
        return -(down + across)


class Reference(Energy):
    """Likeness to an image seen at low resolution (its layout and colours; details stay free), `size` cells high."""

    def __init__(self, image: str, size: int = 8, **how):
        super().__init__(**how)
        require_whole("guidance.reference.size", size)
        self.image, self.size = ImageFile(image, "guidance.reference.image"), size

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        cells = (self.size, max(1, round(self.size * x0.shape[-1] / x0.shape[-2])))
        target = F.adaptive_avg_pool2d(self.image.at(tuple(x0.shape[-2:])).to(x0), cells)
        return (F.adaptive_avg_pool2d(x0, cells) - target).square().mean(dim=(1, 2, 3)) / 2
