"""Conditions that are images: given with the data, or made from the image itself."""

import torch
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.batch import Batch

SOURCES = ("given", "grey", "small")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def condition_image(batch: Batch, source: str) -> torch.Tensor:
    """float32 [B, 3, H, W] in [-1, 1]: the conditioning images of the data, or `made` of the images."""
    if source == "given":
        return pixels.to_signed(batch.conditioning)
    return made(pixels.to_signed(batch.image), source)


def made(x: torch.Tensor, source: str) -> torch.Tensor:
    """`grey`: without colours, so that a model learns to colour. `small`: an eighth of the size, learned to be refined.

    Either of what it has made is that same image again. x: [B, 3, H, W] in [-1, 1].
    """
    if source == "given":
        return x
    if source == "grey":
        return (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True).expand_as(x).contiguous()
    size = [max(1, side // 8) for side in x.shape[-2:]]
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[-2:], mode="nearest")
