"""Validation losses as a record, with which models are compared image by image long after they were measured."""

import hashlib
from collections.abc import Sequence

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.evaluation.validation_loss import PairedDifference, paired_difference

MUST_MATCH = {  # keys in which two comparable records agree, and their names in a sentence
    "prediction": "prediction targets",
    "seed": "seeds",
    "bins": "numbers of timesteps",
    "image_size": "image sizes",
    "noise_schedule": "noise schedules",
    "device": "devices, whose random generators differ",
}


def record(losses: torch.Tensor, contents: Sequence[int], denoiser: Denoiser, size: Sequence[int], seed: int) -> dict:
    """Describe losses [N, bins] and how they were measured. contents: the hash of each image, see validation_loss."""
    alphas = denoiser.noise.alphas
    mean_losses = losses.mean(dim=1).tolist()
    return {
        "loss": losses.mean().item(),
        "prediction": denoiser.objective.name,
        "seed": seed,
        "bins": losses.shape[1],
        "image_size": list(size),
        "noise_schedule": hashlib.sha256(str([f"{a:.5f}" for a in alphas.tolist()]).encode()).hexdigest()[:12],
        "device": alphas.device.type,
        "loss_by_image": {f"{content:x}": loss for content, loss in zip(contents, mean_losses, strict=True)},
    }


def difference(a: dict, b: dict) -> PairedDifference | str:
    """a - b over the images in both records, or a phrase on why they are not comparable."""
    if key := next((key for key in MUST_MATCH if a[key] != b[key]), None):
        return f"not comparable: different {MUST_MATCH[key]}"
    common = sorted(a["loss_by_image"].keys() & b["loss_by_image"].keys())
    if len(common) < 2:
        return "not comparable: different validation images"
    return paired_difference(*(torch.tensor([[side["loss_by_image"][key]] for key in common]) for side in (a, b)))
