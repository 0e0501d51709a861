"""Arithmetic on sets of tensors: EMA, and blending two models, share it."""

from collections.abc import Sequence

import torch


def lerp_(averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], weight: float) -> None:
    """averages += weight (values - averages), in place, one fused call where the device has one."""
    torch._foreach_lerp_(list(averages), [v.to(a.dtype) for a, v in zip(averages, values, strict=True)], weight)


def ema_decay(updates: int, decay: float) -> float:
    """Warmed-up decay min(decay, (1 + n) / (10 + n)): a constant one averages noise on short runs."""
    return min(decay, (1 + updates) / (10 + updates))
