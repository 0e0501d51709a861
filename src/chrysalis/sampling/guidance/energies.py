"""Energies: losses on the model's estimate of x_0, whose gradient changes it.

Sampling from p(x_0) exp(-E(x_0)) needs grad_{x_t} log E[exp(-E(x_0)) | x_t], which the choices of `at` approximate.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
from PIL import ImageColor
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.image_file import ImageFile
from chrysalis.diffusion import seeds
from chrysalis.diffusion.prediction import Prediction
from chrysalis.sampling.guidance.guided import Push, Term
from chrysalis.system.errors import UserError, first_line
from chrysalis.system.ranges import Fraction, GridSize, PositiveNumber, UpTo1000


class Energy(Term):
    """A term that moves x_0 along the gradient of its loss(x0, t, cond) -> [B].

    Args:
        settings: scale, interval and schedule, see Term.
        at: where the gradient is taken. "x_t" goes through the UNet (DPS, Chung et al. 2023; universal guidance, Bansal
            et al. 2023), "x0" does not (MPGD, He et al. 2024), for a fraction of memory and time; "noisy" gives x_t
            itself to the loss, without the UNet.
        gradient: by how much x0 changes at scale 1. "per_pixel": by sigma^2 times the gradient at x0 times C H W, so
            that a mean over pixels acts alike at every size; of "x_t" only the direction is taken, so that a scale
            means the same for both. "unit": by sigma^2 (rms) in that direction, however large the loss. "raw": by
            sigma^2 / alpha grad_{x_t}, or sigma^2 grad_{x_0}, which is Bayes' rule for an energy that is -log p.
        largest_change: the largest rms by which x0 (in [-1, 1]) changes at one step; None for no bound.
        smoothing: number of noisy copies of x0 over which the loss is averaged, as -log mean exp(-loss) (LGD, Song et
            al. 2023); 0 for x0 itself.
    """

    def __init__(
        self,
        at: Literal["x0", "x_t", "noisy"] = "x0",
        gradient: Literal["per_pixel", "raw", "unit"] = "per_pixel",
        largest_change: PositiveNumber | None = 1.0,
        smoothing: UpTo1000 = 0,
        **settings,
    ):
        super().__init__(**settings)
        self.at, self.gradient, self.largest_change, self.smoothing = at, gradient, largest_change, smoothing
        self.through_unet = at == "x_t"
        self.key = f"guidance.{type(self).__name__.lower()}"  # prefix of its settings' keys, for messages

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        """Compute the loss of each image: x0 as RGB, float [B, 3, H, W], about [-1, 1]; t [B] -> [B]."""
        raise NotImplementedError

    def push(self, predicted: Prediction, cond: Mapping | None, strength: float) -> Push:
        sigma = predicted.noise.sigma(predicted.t)
        loss, grad, at_x0 = self._gradients(predicted, cond)
        norm, size = grad.flatten(1).norm(dim=1), grad[0].numel()
        if self.gradient == "raw":
            change = grad if self.at == "x0" else grad / predicted.noise.alpha(predicted.t)
        else:
            change = grad / (norm / math.sqrt(size)).clamp(min=1e-30).view(-1, 1, 1, 1)  # rms 1
            if self.gradient == "per_pixel":
                change = change * (at_x0.flatten(1).norm(dim=1) * math.sqrt(size)).view(-1, 1, 1, 1)
        change = -strength * sigma**2 * change
        if self.largest_change is not None:
            rms = change.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            change = change * (self.largest_change / rms.clamp(min=1e-20)).clamp(max=1)
        return Push(change, loss.detach(), norm)

    def _gradients(
        self, predicted: Prediction, cond: Mapping | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (loss [B], its gradient at what `at` names, its gradient at the loss's own argument)."""
        with torch.enable_grad():
            x = predicted.x_t if self.at == "noisy" else predicted.x0
            if not self.through_unet:
                x = x.detach().requires_grad_()
            loss = self._smoothed(x.clone(), predicted, cond)  # a loss may change its argument in place
            at_x = self._gradient_at(x, loss)
            if not self.through_unet:
                return loss, at_x, at_x
            (at_x_t,) = torch.autograd.grad(x, predicted.x_t, at_x, retain_graph=True)
            return loss, at_x_t, at_x

    def _gradient_at(self, x: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        source, gradient = self.where or self.key, None
        if loss.requires_grad:
            try:
                gradient = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0]
            except Exception as error:  # the user's own backward can raise anything
                why = f"{first_line(error)}. Change no tensor in place"
                raise UserError(f"{source}: the loss has no gradient: {why}.") from error
        if gradient is None:
            raise UserError(f"{source}: the loss does not depend on the image: compute it from x0, with torch.")
        return gradient

    def _smoothed(self, x0: torch.Tensor, predicted: Prediction, cond: Mapping | None) -> torch.Tensor:
        t, sigma = predicted.t.expand(len(x0)), float(predicted.noise.sigma(predicted.t))
        if not self.smoothing:
            return self.loss(self.codec.rgb(x0), t, cond)
        keys = [seeds.key("smoothing", float(predicted.t), j) for j in range(self.smoothing)]
        copies = [x0 + sigma * xi for xi in seeds.normal(keys, x0.shape[1:]).to(x0.device)]
        losses = torch.stack([self.loss(self.codec.rgb(copy), t, cond) for copy in copies])
        return math.log(len(copies)) - torch.logsumexp(-losses, dim=0)


class Colour(Energy):
    """A target color, or the colors of a palette image.

    Args:
        target: "rrggbb" or a CSS name: half the mean squared distance of all pixels' chroma, which leaves the
            brightness to the model. Or an image's path: the sliced Wasserstein distance between the two sets of
            colors (Bonneel et al. 2015).
    """

    def __init__(self, target: str, **settings):
        super().__init__(**settings)
        self.target: torch.Tensor | ImageFile
        try:
            # a "#" typed on the command line would have to be quoted for Hydra
            is_hex = re.fullmatch(r"[0-9a-fA-F]{6}", target)
            self.target = pixels.to_signed(torch.tensor(ImageColor.getrgb(f"#{target}" if is_hex else target)[:3]))
        except ValueError:
            if not any(c in target for c in "./\\"):
                message = f"{self.key}.target={target} is neither a color (rrggbb, CSS name) nor an image: correct it."
                raise UserError(message) from None
            self.target = ImageFile(target, f"{self.key}.target")

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        if isinstance(self.target, ImageFile):
            return _palette_distance(x0, pixels.to_signed(self.target.at(_size(x0), spread=True)).to(x0))
        target = self.target.to(x0).view(1, 3, 1, 1)
        return ((x0 - _luma(x0)) - (target - _luma(target))).square().mean(dim=(1, 2, 3)) / 2


def _luma(x: torch.Tensor) -> torch.Tensor:
    """The luma of RGB images, [B, 1, H, W]."""
    return (x * x.new_tensor(pixels.LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _palette_distance(x0: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    directions = F.normalize(seeds.normal([seeds.key("palette", j) for j in range(16)], (3,)), dim=1).to(x0)
    ours = torch.einsum("kc,bcn->bkn", directions, x0.flatten(2)).sort(dim=2).values
    theirs = torch.einsum("kc,bcn->bkn", directions, palette.flatten(2)).sort(dim=2).values
    return (ours - theirs).square().mean(dim=(1, 2)) * 3 / 2


def _size(x0: torch.Tensor) -> tuple[int, int]:
    return x0.shape[2], x0.shape[3]


class Brightness(Energy):
    """Half the squared distance of the mean luma, in [-1, 1], to the target, given from 0 (black) to 1 (white)."""

    def __init__(self, target: Fraction, **settings):
        super().__init__(**settings)
        self.target = target

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        return (_luma(x0).mean(dim=(1, 2, 3)) - (2 * self.target - 1)).square() / 2


class Symmetry(Energy):
    """Half the mean squared distance to the nearest image that is its own mirror image, left and right."""

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        return (x0 - x0.flip(-1)).square().mean(dim=(1, 2, 3)) / 8


class Silhouette(Energy):
    """A subject inside a mask: outside it a uniform background, inside no pixel like that background.

    mask: an image, white inside. contrast: the rms distance, in [-1, 1], of the subject from the background's color.
    """

    def __init__(self, mask: str, contrast: float = 0.6, **settings):
        super().__init__(**settings)
        self.contrast, self.mask = contrast, ImageFile(mask, "guidance.silhouette.mask")

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        inside = self.mask.mask_at(_size(x0)).to(x0)
        outside = 1 - inside
        background = (x0 * outside).sum(dim=(2, 3), keepdim=True) / outside.sum()
        distance = (x0 - background).square().mean(1, keepdim=True)
        too_similar = (self.contrast - (distance + 1e-6).sqrt()).clamp(min=0).square()
        return (distance * outside + too_similar * inside).mean(dim=(1, 2, 3)) / 2


class Sharpness(Energy):
    """Total variation: the mean distance of neighbouring pixels. A positive scale sharpens, a negative one smooths."""

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        down = (x0.diff(dim=2).square().sum(1) + 1e-4).sqrt().mean(dim=(1, 2))
        across = (x0.diff(dim=3).square().sum(1) + 1e-4).sqrt().mean(dim=(1, 2))
        return -(down + across)


class Reference(Energy):
    """Likeness to an image at low resolution, `size` cells high: its layout and colors, but not its details."""

    def __init__(self, image: str, size: GridSize = 8, **settings):
        super().__init__(**settings)
        self.image, self.size = ImageFile(image, "guidance.reference.image"), size

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        cells = (self.size, max(1, round(self.size * x0.shape[-1] / x0.shape[-2])))
        target = F.adaptive_avg_pool2d(pixels.to_signed(self.image.at(_size(x0))).to(x0), cells)
        return (F.adaptive_avg_pool2d(x0, cells) - target).square().mean(dim=(1, 2, 3)) / 2
