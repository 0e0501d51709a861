"""Random numbers that depend on a seed alone, not on the batch in which they are used.

In training, order, timesteps, flips and noise are pure functions of (seed, epoch, row), so that a resumed run, another
number of workers or another number of devices gets the same numbers.
"""

import hashlib
from collections.abc import Iterable, Sequence

import torch

GOLDEN = 0.6180339887498949


def key(*parts: int | float | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(n: int, *parts: int | str) -> torch.Tensor:
    """int64 [n]: a random order of n rows."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(key(*parts)))


def low_discrepancy(n: int, *parts: int | str) -> torch.Tensor:
    """float32 [n] in [0, 1): each number is uniform, and any run of consecutive ones is spread evenly.

    This is a Kronecker sequence with a random start. Evenly spread timesteps lower the variance of the loss (Kingma et
    al. 2021, Variational Diffusion Models, appendix I.1, who stratify within a batch).
    """
    start = key(*parts) / 2**63
    u = (start + GOLDEN * torch.arange(n, dtype=torch.float64)) % 1.0
    return u.to(torch.float32).clamp(max=1 - 2**-24)


def normal(seeds: list[int], shape: tuple[int, ...], device: torch.device | str = "cpu") -> torch.Tensor:
    """float32 [len(seeds), *shape] of normal numbers: row i depends on seeds[i] alone.

    It also depends on the type of `device`: torch's CPU and CUDA generators differ.
    """
    generator = torch.Generator(device)
    out = torch.empty(len(seeds), *shape, device=device)
    for row, seed in zip(out, seeds, strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return out


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator for each seed, as stock diffusers pipelines take them."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def noise(generators: list[torch.Generator], shape: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """float32 [B, *shape]: the next normal numbers of generators[i] for image i, made on its device as in diffusers."""
    return torch.stack([torch.randn(*shape, generator=g, device=g.device) for g in generators]).to(device)
