"""The distance of two sets of images without a network: the sliced Wasserstein distance of their patches.

As in Karras et al. 2018 (arXiv 1710.10196, sec. 5): 7 x 7 patches at every level of a Laplacian pyramid, normalized,
compared along random directions. Small details and large shapes count separately; it is 0 for equal sets.
"""

import torch
from torch.nn import functional as F

PATCHES, SIDE, DIRECTIONS = 128, 7, 512


def pyramid(x: torch.Tensor) -> list[torch.Tensor]:
    """The Laplacian pyramid of x float [N, 3, H, W]: what each halving loses, then the smallest image."""
    levels = []
    while min(x.shape[-2:]) > 16:
        small = F.avg_pool2d(x, 2)
        levels.append(x - F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False))
        x = small
    return [*levels, x]


def patches(level: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Choose random patches, float [N * PATCHES, 3 * 49]."""
    n, _, height, width = level.shape
    top = torch.randint(height - SIDE + 1, (n, PATCHES), generator=generator)
    left = torch.randint(width - SIDE + 1, (n, PATCHES), generator=generator)
    windows = level.unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    picked = windows[torch.arange(n)[:, None], :, top, left]  # [N, PATCHES, 3, 7, 7]
    return picked.reshape(n * PATCHES, -1)


def distance(a: torch.Tensor, b: torch.Tensor, seed: int = 0) -> float:
    """1000 times the sliced Wasserstein distance, a mean over the levels, of a and b float [N, 3, H, W] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for level_a, level_b in zip(pyramid(a), pyramid(b), strict=True):
        p, q = patches(level_a, generator), patches(level_b, generator)
        mean, spread = q.mean(0), q.std()
        directions = F.normalize(torch.randn(p.shape[1], DIRECTIONS, generator=generator), dim=0)
        p, q = (((x - mean) / spread) @ directions for x in (p, q))
        distances.append((p.sort(0).values - q.sort(0).values).abs().mean().item())
    return 1000 * sum(distances) / len(distances)
