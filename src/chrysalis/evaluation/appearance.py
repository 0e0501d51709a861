"""Contrast, color cast and sharpness of a set of images compared with those of real ones, from the pixels alone."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from chrysalis.data.pixels import as_rgb

LEVELS = 3  # pyramid levels: two of detail, and the image at a quarter of its size


@dataclass(frozen=True)
class Appearance:
    """Statistics of a set of images, float64.

    mean: one for each channel, [3], in 8-bit steps. deviation: standard deviation of all pixel values. energy: standard
    deviation of each pyramid level, fine to coarse, [LEVELS].
    """

    mean: Tensor
    deviation: Tensor
    energy: Tensor

    def compare(self, real: "Appearance") -> dict[str, float]:
        """Compare with real images.

        Returns:
            contrast: ratio of the deviations; 1 is right. color_cast: the largest difference of a channel's mean, in
            8-bit steps; 0 is right. sharpness_fine, _medium, _coarse: ratios of the energies; 1 is equally sharp.
        """
        fine, medium, coarse = (self.energy / real.energy.clamp(min=1e-9)).tolist()
        return {
            "contrast": float(self.deviation / real.deviation.clamp(min=1e-9)),
            "color_cast": float((self.mean - real.mean).abs().max()),
            "sharpness_fine": fine,
            "sharpness_medium": medium,
            "sharpness_coarse": coarse,
        }


def appearance(batches: Iterable[Tensor]) -> Appearance:
    """Measure uint8 images [B, C, H, W] of one size as RGB; where a side is odd, its last row or column is left out."""
    sums = [_moments(images) for images in batches]
    count, channels, *moments = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))
    deviations = torch.stack([(m[1] / m[2] - (m[0] / m[2]) ** 2).clamp(min=0).sqrt() for m in moments])
    return Appearance(channels / count, deviations[0], deviations[1:])


def _moments(images: Tensor) -> list[Tensor]:
    """The number of pixels, the sum of each channel, and (sum, sum of squares, number) of all values and each level."""
    x = as_rgb(images).double()
    levels, small = [], x
    for _ in range(LEVELS - 1):
        down = F.avg_pool2d(small, 2)
        up = F.interpolate(down, scale_factor=2.0)
        levels.append(small[..., : up.shape[-2], : up.shape[-1]] - up)
        small = down
    count = torch.tensor(float(x[:, 0].numel()), dtype=torch.float64)
    values = [
        torch.stack([v.sum(), v.square().sum(), torch.tensor(float(v.numel()))]).double() for v in (x, *levels, small)
    ]
    return [count, x.sum((0, 2, 3)), *values]
