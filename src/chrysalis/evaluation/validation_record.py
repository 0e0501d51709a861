"""Validation loss as a record, so that models can be compared image by image long after they were measured."""

import hashlib
from collections.abc import Sequence

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.evaluation.validation_loss import Paired, paired

LIKE = {  # what two measurements must share, and what it is called
    "prediction": "targets of prediction",
    "seed": "seeds",
    "bins": "numbers of timesteps",
    "size": "sizes in pixels",
    "schedule": "noise schedules",
    "on": "kinds of device, which draw other noise",
}


def record(losses: torch.Tensor, contents: Sequence[int], denoiser: Denoiser, size: Sequence[int], seed: int) -> dict:
    """Of losses [N, bins]. contents: the hash of each image; with the seed and the bin it fixes t and the noise."""
    alphas = denoiser.noise.alphas
    how = {
        "prediction": denoiser.objective.name,
        "seed": seed,
        "bins": losses.shape[1],
        "size": list(size),
        "schedule": hashlib.sha256(str([f"{a:.5f}" for a in alphas.tolist()]).encode()).hexdigest()[:12],
        "on": alphas.device.type,
    }
    images = {f"{content:x}": loss for content, loss in zip(contents, losses.mean(dim=1).tolist(), strict=True)}
    return {"loss": losses.mean().item(), **how, "images": images}


def difference(a: dict, b: dict) -> Paired | str:
    """a - b over the images of both records; in words why not, where there is no such thing."""
    if not a.keys() >= LIKE.keys() <= b.keys():
        return "not comparable: measured by another version"
    if other := next((name for name in LIKE if a[name] != b[name]), None):
        return f"not comparable: other {LIKE[other]}"
    common = sorted(a["images"].keys() & b["images"].keys())
    if len(common) < 2:
        return "not comparable: other images were held out"
    return paired(*(torch.tensor([[side["images"][key]] for key in common]) for side in (a, b)))
