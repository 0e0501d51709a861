"""Held-out loss as a record, so that models can be compared picture by picture long after they were measured."""

from collections.abc import Sequence

import torch

from chrysalis.metrics.timesteps import Paired, paired


def record(losses: torch.Tensor, contents: Sequence[int], prediction: str, seed: int) -> dict:
    """Of losses [N, bins]. contents: the hash of each picture; with the seed and the bin it fixes t and the noise."""
    pictures = {f"{content:x}": loss for content, loss in zip(contents, losses.mean(dim=1).tolist(), strict=True)}
    mean = losses.mean().item()
    return {"loss": mean, "prediction": prediction, "seed": seed, "bins": losses.shape[1], "pictures": pictures}


def difference(a: dict, b: dict) -> Paired | None:
    """a - b over the pictures of both records; None where these are fewer than two, or were not measured alike."""
    if any(a[name] != b[name] for name in ("prediction", "seed", "bins")):
        return None
    common = sorted(a["pictures"].keys() & b["pictures"].keys())
    if len(common) < 2:
        return None
    return paired(*(torch.tensor([[side["pictures"][key]] for key in common]) for side in (a, b)))
