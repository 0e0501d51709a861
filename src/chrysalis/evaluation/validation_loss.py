"""Validation loss on fixed (image, t, noise) triples: the same numbers are compared at every step of every run."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch

from chrysalis.conditions import batches
from chrysalis.data import pixels
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.system import memory


def fixed_timesteps(total: int, bins: int) -> torch.Tensor:
    """int64 [bins]: t_j = (j + 1/2) T / J, the middle of each bin."""
    return ((torch.arange(bins, dtype=torch.float64) + 0.5) * total / bins).long()


@torch.no_grad()
def validation_loss(
    denoiser: Denoiser,
    images: torch.Tensor,
    contents: list[int],
    bins: int = 8,
    seed: int = 0,
    batch_size: int = 32,
    cond: Mapping | None = None,
    advance: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Unweighted MSE float32 [N, bins] of uint8 images [N, 3, H, W], each with the same timesteps and noise always.

    contents: a hash an image; with `seed` and the bin it fixes the noise, whatever the order of the images.
    cond: what a conditional model is told about each image; None for the null.
    advance: is called with the number of triples that were done.
    """
    timesteps = fixed_timesteps(len(denoiser.noise), bins)
    device = denoiser.noise.alphas.device
    pairs = [(i, j) for i in range(len(images)) for j in range(bins)]

    def measured(places: slice) -> torch.Tensor:
        chunk = pairs[places]
        x0 = pixels.to_signed(images[[i for i, _ in chunk]].to(device))
        keys = [seeds.key(seed, "held out", int(contents[i]), j) for i, j in chunk]
        eps = seeds.normal(keys, x0.shape[1:], device)
        t = timesteps[[j for _, j in chunk]].to(device)
        told = None if cond is None else batches.to_device(batches.rows(cond, [i for i, _ in chunk]), device)
        return denoiser.loss_at(x0, t, eps, told).per_sample

    return memory.in_batches(measured, len(pairs), batch_size, device, advance).view(len(images), bins).cpu()


@dataclass(frozen=True)
class Paired:
    """A mean difference over n images with its standard error (inf of one image), and both by timestep bin."""

    mean: float
    error: float
    by_bin: list[float]
    error_by_bin: list[float]
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.5f} ± {self.error:.5f}" if self.n > 1 else f"{self.mean:+.5f} (of one image)"

    @property
    def is_significant(self) -> bool:
        """Whether it is no chance: beyond Student's 95 % interval for n images."""
        if self.n < 2:
            return False
        from scipy.stats import t  # slow to import, and needed at a run's end only

        return abs(self.mean) > t.ppf(0.975, self.n - 1) * self.error

    @property
    def known_error(self) -> float | None:
        """The error as JSON has it."""
        return self.error if self.n > 1 else None

    def record(self) -> dict:
        errors = self.error_by_bin if self.n > 1 else [None] * len(self.by_bin)
        return {**asdict(self), "error": self.known_error, "error_by_bin": errors}


def paired(a: torch.Tensor, b: torch.Tensor) -> Paired:
    """Of losses [N, bins] on the same triples: a - b. The images are the sample, N of them, not their triples, for
    what is hard about an image is hard at every t."""
    difference = (a - b).double()
    n = len(difference)

    def error(values: torch.Tensor) -> torch.Tensor:
        return values.std(dim=0) / n**0.5 if n > 1 else torch.full(values.shape[1:], torch.inf)

    mean = difference.mean(dim=1)
    by_bin = difference.mean(dim=0).tolist(), error(difference).tolist()
    return Paired(float(mean.mean()), float(error(mean)), *by_bin, n)
