"""Validation loss on fixed (image, t, noise) triples, so that every step of every run is measured on the same ones."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from chrysalis.conditions import batches
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.system import memory

MUST_MATCH = {  # keys in which two comparable records agree, and their names in a sentence
    "prediction": "prediction targets",
    "seed": "seeds",
    "bins": "numbers of timesteps",
    "image_size": "image sizes",
    "noise_schedule": "noise schedules",
    "device": "devices, whose random generators differ",
}


def fixed_timesteps(total: int, bins: int) -> Tensor:
    """int64 [bins]: t_j = (j + 1/2) T / J, the middle of each bin."""
    return ((torch.arange(bins, dtype=torch.float64) + 0.5) * total / bins).long()


@torch.no_grad()
def validation_loss(
    denoiser: Denoiser,
    images: Tensor,
    hashes: Sequence[int],
    bins: int = 8,
    seed: int = 0,
    batch_size: int = 32,
    cond: Mapping | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Measure the unweighted MSE, float32 [N, bins], of uint8 images [N, C, H, W].

    hashes: one for each image, which fixes its noise together with `seed` and the bin, in whatever order the
    images come. cond: the images' conditions; None: null. advance: called with the number of triples in each batch.
    """
    timesteps = fixed_timesteps(len(denoiser.noise), bins)
    device = denoiser.noise.alphas.device
    pairs = [(i, j) for i in range(len(images)) for j in range(bins)]

    def per_sample(places: slice) -> Tensor:
        chunk = pairs[places]
        rows = [i for i, _ in chunk]
        first = rows[0]  # an image is encoded once for all its timesteps
        x0 = denoiser.codec.encode(images[first : rows[-1] + 1].to(device))[[row - first for row in rows]]
        eps = seeds.normal([seeds.key(seed, "held out", int(hashes[i]), j) for i, j in chunk], x0.shape[1:], device)
        t = timesteps[[j for _, j in chunk]].to(device)
        chunk_cond = None if cond is None else batches.to_device(batches.rows(cond, rows), device)
        return denoiser.loss_at(x0, t, eps, chunk_cond).per_sample

    return memory.in_batches(per_sample, len(pairs), batch_size, device, advance).view(len(images), bins).cpu()


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over n images with its standard error (infinite for one image), and both by timestep."""

    mean: float
    standard_error: float
    by_timestep: list[float]
    standard_error_by_timestep: list[float]
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.5f} ± {self.standard_error:.5f}" if self.n > 1 else f"{self.mean:+.5f} (one image)"

    @property
    def is_significant(self) -> bool:
        """Whether Student's 95 % interval for n images excludes zero."""
        from scipy.stats import t  # slow to import, and needed at the end of a run only

        return bool(abs(self.mean) > t.ppf(0.975, max(1, self.n - 1)) * self.standard_error)

    def record(self) -> dict:
        """The fields for JSON, which has no infinity: the standard errors of one image are null."""
        unknown = {"standard_error": None, "standard_error_by_timestep": [None] * len(self.by_timestep)}
        return {**asdict(self), **(unknown if self.n < 2 else {})}


def paired_difference(a: Tensor, b: Tensor) -> PairedDifference:
    """Average a - b of losses [N, bins] on the same triples.

    The standard error is over the N images, not over their triples: an image that is hard at one timestep is hard at
    every one.
    """
    difference = (a - b).double()
    n = len(difference)

    def standard_error(values: Tensor) -> Tensor:
        return values.std(dim=0) / n**0.5 if n > 1 else torch.full(values.shape[1:], torch.inf)

    by_image = difference.mean(dim=1)
    by_timestep = difference.mean(dim=0).tolist(), standard_error(difference).tolist()
    return PairedDifference(float(by_image.mean()), float(standard_error(by_image)), *by_timestep, n)


def loss_record(losses: Tensor, hashes: Sequence[int], denoiser: Denoiser, size: Sequence[int], seed: int) -> dict:
    """Describe losses [N, bins] and how they were measured. hashes: one for each image, see `validation_loss`."""
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
        "loss_by_image": {f"{key:x}": loss for key, loss in zip(hashes, mean_losses, strict=True)},
    }


def compare_records(a: dict, b: dict) -> PairedDifference | str:
    """a - b over the images in both records, or a phrase on why they are not comparable."""
    if key := next((key for key in MUST_MATCH if a[key] != b[key]), None):
        return f"not comparable: different {MUST_MATCH[key]}"
    common = sorted(a["loss_by_image"].keys() & b["loss_by_image"].keys())
    if len(common) < 2:
        return "not comparable: different validation images"
    return paired_difference(*(torch.tensor([[side["loss_by_image"][key]] for key in common]) for side in (a, b)))
