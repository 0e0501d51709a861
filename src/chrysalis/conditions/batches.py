"""From a training batch to a condition: its values, rows of them, and nulls at random."""

from collections.abc import Mapping, Sequence

import torch

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kinds import kinds_of
from chrysalis.data.batch import Batch
from chrysalis.diffusion import seeds


def from_batch(batch: Batch, conditioner: Conditioner) -> dict:
    """The condition of a batch; where an image has no value, it has the null."""
    return {name: kind.of_batch(batch) for name, kind in kinds_of(conditioner).items()}


def captions(batch: Batch, conditioner: Conditioner) -> list[str]:
    """The condition of each image in words, empty where no kind has any."""
    kinds = [kind for _, kind in sorted(kinds_of(conditioner).items())]
    return [", ".join(filter(None, (kind.caption(batch, i) for kind in kinds))) for i in range(len(batch))]


def rows(cond: Mapping, indices: Sequence[int]) -> dict:
    """The condition of the images at `indices`."""
    return {
        name: tuple(value[i] for i in indices) if isinstance(value, tuple) else value[list(indices)]
        for name, value in cond.items()
    }


def to_device(cond: Mapping, device: torch.device | str) -> dict:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in cond.items()}


def with_nulls(cond: Mapping, conditioner: Conditioner, dropped: Mapping[str, Sequence[bool]], x: torch.Tensor) -> dict:
    """The condition with the null of each part where `dropped` says so, for B images shaped like x [B, C, H, W]."""
    out = dict(cond)
    for name, which in dropped.items():
        null = conditioner.parts[name].null_values(x)
        if isinstance(null, tuple):
            out[name] = tuple(None if lost else value for value, lost in zip(cond[name], which, strict=True))
        else:
            lost = torch.as_tensor(which, device=null.device).view(-1, *[1] * (null.dim() - 1))
            out[name] = torch.where(lost, null, cond[name])
    return out


def dropout(names: Sequence[str], keys: Sequence[int], p: float) -> dict[str, list[bool]]:
    """For each part the images that are trained without it: a pure function of their keys.

    An image loses all parts with probability p; otherwise, if there are several, each part alone with p again.
    """

    def chance(key: int, what: str) -> float:
        return seeds.key(key, "condition", what) / 2**63

    all_parts = [chance(key, "all") < p for key in keys]
    if len(names) == 1:
        return {names[0]: all_parts}
    return {name: [lost or chance(key, name) < p for key, lost in zip(keys, all_parts, strict=True)] for name in names}


def shuffled(labels: Sequence, keys: Sequence[int]) -> list[int]:
    """A fixed permutation of images that gives as many as possible a label unlike their own."""
    n, order = len(labels), sorted(range(len(labels)), key=lambda i: keys[i])

    def same(by: int) -> int:
        return sum(labels[order[i]] == labels[order[(i + by) % n]] for i in range(n))

    best = min(range(1, max(2, n)), key=same)
    partner = {order[i]: order[(i + best) % n] for i in range(n)}
    return [partner[i] for i in range(n)]
