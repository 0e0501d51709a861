"""How far two sets of images are apart, as pure functions of their features: [N, D] and [M, D], any float type.

All is computed in float64. Which figure can be believed at which n is said by `withheld`.
"""

from dataclasses import dataclass

import torch

from chrysalis.diffusion import seeds

FEW = 50  # below, one image moves a share by more than 2 %
KERNEL_LEAST = 16
SAME = 1e-5  # of its length: features of one image differ by no more, whatever else is in its batch
MOST = 5000  # images of each set, where every pair is looked at


@dataclass(frozen=True)
class Kernel:
    """An unbiased squared distance, which lies about 0 (and below) where the sets are alike; [low, high]: 95 %."""

    value: float
    low: float
    high: float


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """FD = |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the Gaussians with the sets' moments.

    FID with Inception's features (Heusel et al. 2017, arXiv 1706.08500). The trace of the root is the sum of the
    singular values of R_a R_b^T with S = R^T R, which needs no root of a matrix and bears singular covariances.
    """
    a, b = _pair(a, b)
    roots = [torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R for x in (a, b)]
    shift = (a.mean(0) - b.mean(0)).square().sum()
    spread = sum(root.square().sum() for root in roots)
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return float(shift + spread - 2 * shared)


def polynomial(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """k(x, y) = (x . y / D + 1)^3 of each pair, [N, M]."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel(a: torch.Tensor, b: torch.Tensor, resamples: int = 1000, seed: int = 0) -> Kernel:
    """KD = MMD^2 with the cubic kernel, unbiased at every n; KID with Inception's features (Binkowski et al. 2018,
    arXiv 1801.01401), here of the whole sets and not of subsets.

    It takes the sets for independent samples. n images held against themselves have each image paired with itself
    across the sets and not within, and KD = -2/n (mean k(x, x) - mean k(x, y)), not 0; `repeated` counts such images.

    The interval is the bootstrap's: images are drawn anew with replacement `resamples` times, and pairs of one and
    the same image are left out, which would count it as its own neighbour. It holds the truth in 95 % of cases or
    more: where two sets are alike, in 99 %.
    """
    a, b = _pair(a, b)
    within_a, within_b, across = polynomial(a, a), polynomial(b, b), polynomial(a, b)
    within_a.fill_diagonal_(0)
    within_b.fill_diagonal_(0)
    whole = [torch.ones(1, len(x), dtype=torch.float64, device=x.device) for x in (a, b)]
    generator = torch.Generator().manual_seed(seed)
    anew = [_counts(len(x), resamples, generator).to(x.device) for x in (a, b)]
    value, again = (_mmd(within_a, within_b, across, *counts) for counts in (whole, anew))
    low, high = torch.quantile(again.cpu(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Kernel(float(value), low, high)


def _counts(n: int, resamples: int, generator: torch.Generator) -> torch.Tensor:
    """How often each of n images was drawn in each resample, [resamples, n]."""
    drawn = torch.randint(n, (resamples, n), generator=generator)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(1, 1).double().expand(resamples, n)
    )


def _mmd(within_a, within_b, across, count_a, count_b) -> torch.Tensor:
    """Of weighted sets, one a row of the counts; the kernels within have an empty diagonal."""

    def mean_within(k: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ((w @ k) * w).sum(1) / (w.sum(1) ** 2 - w.square().sum(1))

    mean_across = ((count_a @ across) * count_b).sum(1) / (count_a.sum(1) * count_b.sum(1))
    return mean_within(within_a, count_a) + mean_within(within_b, count_b) - 2 * mean_across


def radii(x: torch.Tensor, k: int) -> torch.Tensor:
    """Distance of each image to its k-th nearest other, [N]."""
    return (
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(0).kthvalue(k + 1, dim=1).values
    )


def precision_recall(real: torch.Tensor, drawn: torch.Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of samples that lie in a real one's ball (of its k nearest), and of real ones in a drawn one's
    (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""
    real, drawn = _pair(real, drawn)
    across = torch.cdist(real, drawn, compute_mode="donot_use_mm_for_euclid_dist")
    precision = (across <= radii(real, k)[:, None]).any(0).double().mean()
    recall = (across <= radii(drawn, k)[None]).any(1).double().mean()
    return float(precision), float(recall)


def density_coverage(real: torch.Tensor, drawn: torch.Tensor, k: int = 5) -> tuple[float, float]:
    """How many real balls a sample lies in, over k (about 1 where sets are alike), and the share of real balls
    that hold a sample (Naeem et al. 2020, arXiv 2002.09797); outliers weigh less than in precision, recall."""
    real, drawn = _pair(real, drawn)
    inside = torch.cdist(real, drawn, compute_mode="donot_use_mm_for_euclid_dist") < radii(real, k)[:, None]
    return float(inside.double().sum(0).mean() / k), float(inside.any(1).double().mean())


@dataclass(frozen=True)
class Distances:
    """Of samples to real ones; None where a figure is withheld, and `why` says so for the user to read."""

    n_real: int
    n_samples: int
    fd: float | None
    kd: Kernel | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    why: tuple[str, ...]


def distances(real: torch.Tensor, drawn: torch.Tensor, seed: int = 0) -> Distances:
    """All of them. FD is of equally many images of each set, for it falls as n grows; the others look at every pair,
    of at most MOST images of each set. Which ones are left out is random, for sets may come sorted by kind."""
    n, m, least = len(real), len(drawn), min(len(real), len(drawn))
    why = withheld(n, m, real.shape[1])
    fd = frechet(*(some(x, least, seed) for x in (real, drawn))) if least > real.shape[1] else None
    real, drawn = (some(x, MOST, seed) for x in (real, drawn))
    shares = (None,) * 4
    if least >= FEW:
        shares = (*precision_recall(real, drawn), *density_coverage(real, drawn))
    kd = kernel(real, drawn, seed=seed) if least >= KERNEL_LEAST else None
    if kd is not None and (same := repeated(real, drawn)):
        why += (
            f"KD is too low, below 0 of a set and itself: {same} of {m} samples are images that they are held against, "
            "and KD takes the two sets for independent.",
        )
    return Distances(n, m, fd, kd, *shares, why)


def repeated(real: torch.Tensor, drawn: torch.Tensor) -> int:
    """How many drawn images have the features of a real one, but for rounding."""
    real, drawn = _pair(real, drawn)
    nearest = torch.cdist(real, drawn, compute_mode="donot_use_mm_for_euclid_dist").amin(0)
    return int((nearest <= SAME * drawn.norm(dim=1)).sum())


def some(x: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """n rows at random, always the same ones; all of them where there are no more."""
    return x if len(x) <= n else x[seeds.permutation(len(x), seed, "some")[:n]]


def withheld(n_real: int, n_samples: int, dim: int) -> tuple[str, ...]:
    """A sentence for each figure that so few images cannot support."""
    least = min(n_real, n_samples)
    counted = f"there are {n_real} real and {n_samples} drawn ones"
    said = []
    if least <= dim:
        said.append(
            f"FD is withheld: it takes more images than the {dim} features ({counted}); KD is unbiased at any n."
        )
    if least < FEW:
        said.append(f"precision, recall, density and coverage are withheld: they take {FEW} images ({counted}).")
    if least < KERNEL_LEAST:
        said.append(f"KD is withheld: its interval takes {KERNEL_LEAST} images ({counted}).")
    return tuple(said)


def _pair(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be [N, D] and [M, D], not {list(a.shape)} and {list(b.shape)}")
    return a.double(), b.double()
