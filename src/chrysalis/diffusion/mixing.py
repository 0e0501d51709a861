"""Arithmetic on sets of tensors: EMA, and blending two models, share it."""

from collections.abc import Mapping, Sequence

import torch


def lerp_(averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], weight: float) -> None:
    """averages += weight (values - averages), in place, one fused call where the device has one."""
    torch._foreach_lerp_(list(averages), [v.to(a.dtype) for a, v in zip(averages, values, strict=True)], weight)


def ema_decay(updates: int, decay: float) -> float:
    """Warmed-up decay min(decay, (1 + n) / (10 + n)): a constant one averages noise on short runs."""
    return min(decay, (1 + updates) / (10 + updates))


def lerp(base: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], part: float) -> dict[str, torch.Tensor]:
    """base + part (other - base), name by name; part 0 and 1 give them to the bit. The two must have the same names."""
    if part in (0, 1):
        return dict(other if part else base)
    return {name: torch.lerp(value, other[name].to(value), part) for name, value in base.items()}


def slerp(a: torch.Tensor, b: torch.Tensor, part: float) -> torch.Tensor:
    """Between two noises along the arc (Shoemake 1985), so that what lies between is as long as they are."""
    a, b, to = a.cpu(), b.cpu(), a.device  # Apple GPUs have no float64
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, part).to(to)
    of_a, of_b = (((1 - part) * angle).sin() / angle.sin()).float(), ((part * angle).sin() / angle.sin()).float()
    return (of_a * a + of_b * b).to(to)
