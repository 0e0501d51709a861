"""The most suspicious images, each above the training image that is nearest to it."""

import torch

from chrysalis.data import pixels
from chrysalis.evaluation.reference import Evaluation, Reference
from chrysalis.sampling.grids import table

LEAST = 64  # pixels of an image's shorter side, so that eyes can compare


def panel(evaluation: Evaluation, reference: Reference, images: torch.Tensor, k: int) -> torch.Tensor:
    """uint8 [3, h, w] of drawn images uint8 [N, 3, H, W]: the k with the lowest ratios, from the left."""
    worst, nearest = reference.nearest(evaluation, k)
    enlarge = max(1, -(-LEAST // min(images.shape[-2:])))
    flagged = int(evaluation.copies.flagged[worst].sum())
    how = f"drawn: the {len(worst)} nearest" + (f", {flagged} of them near copies" if flagged else "")
    return pixels.from_image(table([(how, images[worst]), ("the training images nearest to them", nearest)], enlarge))
