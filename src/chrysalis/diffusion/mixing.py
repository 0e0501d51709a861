"""Interpolation between sets of weights (EMA, blending two models) and between noises."""

from collections.abc import Mapping, Sequence

import torch


def lerp_(averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], weight: float) -> None:
    """averages += weight (values - averages), in place, in one fused call where the device has one."""
    torch._foreach_lerp_(list(averages), [v.to(a.dtype) for a, v in zip(averages, values, strict=True)], weight)


def ema_decay(updates: int, decay: float) -> float:
    """EMA decay with warm-up, min(decay, (1 + n) / (10 + n)) after n updates.

    On short runs a constant decay would keep the initial weights for too long.
    """
    return min(decay, (1 + updates) / (10 + updates))


def lerp(base: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], w: float) -> dict[str, torch.Tensor]:
    """base + w (other - base) for tensors of the same names; w = 0 and w = 1 return one of them unchanged."""
    if w in (0, 1):
        return dict(other if w else base)
    return {name: torch.lerp(value, other[name].to(value), w) for name, value in base.items()}


def slerp(a: torch.Tensor, b: torch.Tensor, w: float) -> torch.Tensor:
    """Interpolate between two noises along the arc (Shoemake 1985), which preserves their norm."""
    a, b, device = a.cpu(), b.cpu(), a.device  # Apple GPUs have no float64
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, w).to(device)
    w_a, w_b = (((1 - w) * angle).sin() / angle.sin()).float(), ((w * angle).sin() / angle.sin()).float()
    return (w_a * a + w_b * b).to(device)
