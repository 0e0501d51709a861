"""The condition of a training batch: its values, selection of images, dropout and shuffling."""

from collections.abc import Mapping, Sequence

import torch

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kinds import kinds_of
from chrysalis.data.batch import Batch
from chrysalis.diffusion import seeds


def from_batch(batch: Batch, conditioner: Conditioner) -> dict:
    """The condition of a batch, with the null for images that have no value."""
    return {name: kind.of_batch(batch) for name, kind in kinds_of(conditioner).items()}


def captions(batch: Batch, conditioner: Conditioner) -> list[str]:
    """The condition of each image in words; empty if none of its kinds can be put into words."""
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
    """The condition with nulls for the images that `dropped` marks, by part. x: [B, C, H, W], for their shape."""
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
    """Whether each part is dropped for each image: a pure function of the images' keys.

    All parts of an image are dropped with probability p; otherwise, if there are several, each on its own with p.
    """

    def uniform(key: int, what: str) -> float:
        return seeds.key(key, "condition", what) / 2**63

    all_parts = [uniform(key, "all") < p for key in keys]
    if len(names) == 1:
        return {names[0]: all_parts}
    return {name: [lost or uniform(key, name) < p for key, lost in zip(keys, all_parts, strict=True)] for name in names}


def shuffled(labels: Sequence, keys: Sequence[int]) -> list[int]:
    """The cyclic shift of the images, in the order of `keys`, that gives most of them a label other than their own."""
    n, order = len(labels), sorted(range(len(labels)), key=lambda i: keys[i])

    def same(by: int) -> int:
        return sum(labels[order[i]] == labels[order[(i + by) % n]] for i in range(n))

    best = min(range(1, max(2, n)), key=same)
    partner = {order[i]: order[(i + best) % n] for i in range(n)}
    return [partner[i] for i in range(n)]
