"""Gradient clipping that returns the norm, so that the log has it and it is computed once."""

from collections.abc import Sequence

import torch


def clip(params: Sequence[torch.nn.Parameter], value: float | None, algorithm: str | None) -> torch.Tensor:
    """Clip gradients in place, as Lightning's trainer.gradient_clip_* define it; returns the norm before clipping.

    value: the largest norm, or with algorithm="value" the largest absolute value; None or 0 for no clipping.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    if not value:
        return norm
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(params, value)
    # what clip_grad_norm_ does, without multiplying by 1 where that is known without waiting for a GPU
    elif norm.device.type != "cpu" or norm + 1e-6 > value:
        torch.nn.utils.clip_grads_with_norm_(params, value, norm)
    return norm
