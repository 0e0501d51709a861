"""Optimizer and learning-rate schedule, as configuration names them."""

from collections.abc import Iterable
from typing import Literal

import torch
from diffusers.optimization import get_scheduler

from chrysalis.errors import UserError


def adamw(
    params: Iterable[torch.nn.Parameter],
    lr: float = 1e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), foreach: Lightning refuses to clip gradients of a fused one."""
    if not lr > 0:
        raise UserError(f"optimizer.lr={lr} must be positive.")
    return torch.optim.AdamW(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay, eps=eps, foreach=True)


def lr_schedule(
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    kind: Literal["constant", "cosine", "linear"] = "constant",
    warmup_steps: int = 0,
) -> torch.optim.lr_scheduler.LRScheduler:
    """A multiplier counted in optimizer steps: linear warm-up, then constant, or down to 0 at total_steps."""
    if kind not in ("constant", "cosine", "linear"):
        raise UserError(f"lr_schedule.kind={kind} is unknown: choose constant, cosine or linear.")
    if kind != "constant" and not 0 < total_steps < float("inf"):
        raise UserError(f"lr_schedule={kind} needs an end: give trainer.max_steps or trainer.max_epochs.")
    name = "constant_with_warmup" if kind == "constant" else kind
    return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
