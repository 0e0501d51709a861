"""From a training batch to the condition that the model sees: values, rows of them, and nulls at random."""

from collections.abc import Mapping, Sequence

import torch

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.image_source import condition_image
from chrysalis.data import pixels
from chrysalis.data.batch import Batch
from chrysalis.diffusion import seeds


def of_batch(batch: Batch, conditioner: Conditioner) -> dict:
    """What the images of a batch are conditioned on; a value that one lacks is its null."""
    cond: dict = {}
    for name in conditioner.names:
        if name == "label":
            cond[name] = batch.label
        elif name == "vector":
            cond[name] = batch.vector
        elif name == "text":
            cond[name] = tuple(caption or None for caption in batch.caption)
        elif name == "mask":
            cond[name] = pixels.to_signed(batch.mask)
        else:
            cond[name] = condition_image(batch, conditioner.config.parts[name]["source"])
    return cond


def rows(cond: Mapping, places: Sequence[int]) -> dict:
    """The condition of the images at `places`."""
    return {
        name: tuple(value[i] for i in places) if isinstance(value, tuple) else value[list(places)]
        for name, value in cond.items()
    }


def moved(cond: Mapping | None, device: torch.device | str) -> dict | None:
    """The condition on `device`."""
    if cond is None:
        return None
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in cond.items()}


def without(cond: Mapping, conditioner: Conditioner, gone: Mapping[str, Sequence[bool]], x: torch.Tensor) -> dict:
    """The condition with the null where `gone` says so, of each part for B images shaped like x [B, C, H, W]."""
    out = dict(cond)
    for name, which in gone.items():
        null = conditioner.null(name, x)
        if isinstance(null, tuple):
            out[name] = tuple(None if lost else value for value, lost in zip(cond[name], which, strict=True))
        else:
            lost = torch.as_tensor(which, device=null.device).view(-1, *[1] * (null.dim() - 1))
            out[name] = torch.where(lost, null, cond[name])
    return out


def dropped(names: Sequence[str], keys: Sequence[int], p: float) -> dict[str, list[bool]]:
    """Which images learn without which part: all parts with probability p; of the other images, if there are
    several parts, each part on its own with p again. A pure function of the images' keys."""

    def chance(key: int, what: str) -> float:
        return seeds.key(key, "condition", what) / 2**63

    everything = [chance(key, "all") < p for key in keys]
    if len(names) == 1:
        return {names[0]: everything}
    return {name: [e or chance(key, name) < p for key, e in zip(keys, everything, strict=True)] for name in names}


def shuffled(labels: Sequence, keys: Sequence[int]) -> list[int]:
    """A fixed rearrangement of images, as far as can be one that gives each a value unlike its own."""
    n = len(labels)
    order = sorted(range(n), key=lambda i: keys[i])
    best = min(
        range(1, max(2, n)), key=lambda by: sum(labels[order[i]] == labels[order[(i + by) % n]] for i in range(n))
    )
    out = [0] * n
    for i in range(n):
        out[order[i]] = order[(i + best) % n]
    return out
