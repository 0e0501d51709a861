"""Optimizers and the learning-rate schedule that configurations name."""

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from diffusers.optimization import get_scheduler

from chrysalis.system.ranges import FractionBelow1, LearningRate, NotNegative, NotNegativeNumber


def adamw(
    params: Iterable[torch.nn.Parameter],
    lr: LearningRate = 1e-5,
    betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.999),
    weight_decay: NotNegativeNumber = 0.01,
    eps: NotNegativeNumber = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused: one pass over the weights, on CPUs too."""
    return torch.optim.AdamW(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay, eps=eps, fused=True)


@torch.enable_grad()
def evaluated(closure: Callable[[], Any] | None) -> Any:
    """Return what the closure of an optimizer's step returns, the loss; None without a closure."""
    return None if closure is None else closure()


def gradients(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor, dict]]:
    """Yield each weight that has a gradient, with it and with its group."""
    for group in optimizer.param_groups:
        yield from ((p, p.grad, group) for p in group["params"] if p.grad is not None)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with moments in 8 bits, each BLOCK with its own scale (Dettmers et al. 2022, arXiv 2110.02861).

    The two moments take 2 bytes a weight instead of 8, at little loss of precision. As in bitsandbytes, tensors below
    SMALLEST elements keep float32 moments, and the weights are updated with the moments from before they are rounded.
    In plain torch, for every device; the state is plain tensors in the order of a contiguous weight, whatever the
    weight's memory layout.
    """

    BLOCK, SMALLEST = 256, 4096
    bytes_per_weight = 2 + 2 * 4 / BLOCK

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: LearningRate = 1e-5,
        betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.999),
        weight_decay: NotNegativeNumber = 0.01,
        eps: NotNegativeNumber = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):  # pyrefly: ignore[bad-override] - the parent declares overloads for one function
        loss = evaluated(closure)
        for p, grad, group in gradients(self):
            self._update(p, grad, self.state[p], group)
        return loss

    def _update(self, p: torch.Tensor, gradient: torch.Tensor, state: dict, group: dict) -> None:
        n, (beta1, beta2) = state.get("step", 0) + 1, group["betas"]
        grad = gradient.float().contiguous()
        m, v = (self._moment(state, name, grad) for name in ("m", "v"))
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        step = (m / (1 - beta1**n)).div_((v / (1 - beta2**n)).sqrt_().add_(group["eps"]))
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.to(p.dtype), alpha=-group["lr"])
        state["step"] = n
        for name, moment in (("m", m), ("v", v)):
            small = moment.numel() < self.SMALLEST
            state.update({name: moment} if small else self._quantized(name, moment))

    def _moment(self, state: dict, name: str, like: torch.Tensor) -> torch.Tensor:
        """The moment in float32, with the shape of `like`."""
        if name not in state:
            return torch.zeros_like(like)
        if f"{name}_scale" not in state:
            return state[name]
        values = levels(name == "m", like.device)[state[name].int()] * state[f"{name}_scale"]
        return values.view(-1)[: like.numel()].view(like.shape)

    def _quantized(self, name: str, moment: torch.Tensor) -> dict[str, torch.Tensor]:
        """The nearest levels, uint8 [blocks, BLOCK], and their scales, float32 [blocks, 1]."""
        flat = moment.view(-1)
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % self.BLOCK)).view(-1, self.BLOCK)
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        table = levels(name == "m", moment.device)
        codes = torch.bucketize(blocks / scale, (table[1:] + table[:-1]) / 2, out_int32=True).to(torch.uint8)
        if name == "v":
            codes.clamp_(min=1)  # a second moment of 0 under a nonzero first one would make an unbounded step
        return {name: codes, f"{name}_scale": scale}

    def load_state_dict(self, state_dict: dict) -> None:
        """Keep each state's dtype: torch's own method would cast all of them to the weight's."""
        super().load_state_dict(state_dict)
        places = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for place, p in zip(places, params, strict=True):
            if place in state_dict["state"]:
                saved = state_dict["state"][place].items()
                self.state[p] = {k: v.to(p.device, copy=True) if torch.is_tensor(v) else v for k, v in saved}


@functools.cache
def levels(signed: bool, device: torch.device) -> torch.Tensor:
    """The dynamic map of Dettmers 2016 (arXiv 1511.04561), sec. 1.3: float32 [256], ascending in [-1, 1] or [0, 1].

    Each further decade towards 0, down to 1e-7, has half as many levels.
    """
    found = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1, dtype=torch.float64).tolist()
        middles = [10.0 ** (decade - 6) * (a + b) / 2 for a, b in pairwise(edges)]
        found += [*middles, *(-x for x in middles)] if signed else middles
    return torch.tensor(sorted(found), dtype=torch.float32, device=device)


def lr_schedule(
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    kind: Literal["constant", "cosine", "linear"] = "constant",
    warmup_steps: NotNegative = 0,
) -> torch.optim.lr_scheduler.LRScheduler:
    """Make the learning-rate schedule: linear warm-up, then constant, or down to 0 at total_steps."""
    name = "constant_with_warmup" if kind == "constant" else kind
    return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
