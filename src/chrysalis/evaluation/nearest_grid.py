"""The samples most like a training image, each above the training image nearest to it."""

import torch

from chrysalis.data import pixels
from chrysalis.evaluation.reference import Evaluation, Reference
from chrysalis.sampling.grids import table

MIN_SIDE = 64  # pixels of an image's shorter side, so that people can compare


def nearest_grid(evaluation: Evaluation, reference: Reference, images: torch.Tensor, k: int) -> torch.Tensor:
    """Show the k samples of uint8 [N, 3, H, W] with the lowest ratios, from the left; returns uint8 [3, h, w]."""
    rows, nearest = reference.nearest(evaluation, k)
    enlarge = max(1, -(-MIN_SIDE // min(images.shape[-2:])))
    flagged = int(evaluation.near_duplicates.flagged[rows].sum())
    title = f"the {len(rows)} samples nearest to a training image" + (f" ({flagged} near-duplicates)" * bool(flagged))
    return pixels.from_image(table([(title, images[rows]), ("the training image nearest to each", nearest)], enlarge))
