"""Distances between two sets of images, as pure functions of their features [N, D] and [M, D] of any float type.

Everything is computed in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chrysalis.diffusion import seeds

MIN_IMAGES_FOR_PRECISION = 50  # with fewer, one image changes a fraction by more than 2 %
MIN_IMAGES_FOR_KD = 16
MAX_IMAGES = 5000  # images of each set, for metrics that compare every pair
KD_FORMAT = "{kd:.2g} (95 % CI {kd_low:.2g} to {kd_high:.2g})"  # filled with the metrics of `measure`
IDENTICAL = 1e-5  # relative distance; features of one image differ by less, whatever else is in its batch


class KernelDistance(NamedTuple):
    """An unbiased squared distance, about 0 (or below) for equal distributions; [low, high] is its 95 % interval."""

    value: float
    low: float
    high: float


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """FD = |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the Gaussians with the sets' moments.

    With Inception features this is FID (Heusel et al. 2017, arXiv 1706.08500). The trace of the root equals the sum
    of the singular values of R_a R_b^T with S = R^T R: no matrix root, and singular covariances are fine.
    """
    a, b = a.double(), b.double()
    roots = [torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R for x in (a, b)]
    shift = (a.mean(0) - b.mean(0)).square().sum()
    spread = roots[0].square().sum() + roots[1].square().sum()
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return float(shift + spread - 2 * shared)


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Compute k(x, y) = (x . y / D + 1)^3 for each pair, [N, M]."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_distance(a: Tensor, b: Tensor, resamples: int = 1000, seed: int = 0) -> KernelDistance:
    """KD = MMD^2 with the cubic kernel, unbiased at every n, of the whole sets.

    With Inception features this is KID (Binkowski et al. 2018, arXiv 1801.01401), which averages over subsets. The
    sets are assumed to be independent: n images compared with themselves give KD = -2/n (mean k(x, x) -
    mean k(x, y)) instead of 0.

    The interval comes from a bootstrap of `resamples` resamples with replacement, which leaves out pairs of an image
    with itself. It contains the true value in 95 % of cases or more (99 % for equal distributions).
    """
    a, b = a.double(), b.double()
    within_a, within_b, across = polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b)
    within_a.fill_diagonal_(0)
    within_b.fill_diagonal_(0)
    once = [torch.ones(1, len(x), dtype=torch.float64) for x in (a, b)]
    generator = torch.Generator().manual_seed(seed)
    resampled = [_bootstrap_counts(len(x), resamples, generator) for x in (a, b)]
    value, bootstrap = (_mmd_squared(within_a, within_b, across, *counts) for counts in (once, resampled))
    low, high = torch.quantile(bootstrap, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return KernelDistance(float(value), low, high)


def _bootstrap_counts(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Count how often each of n images occurs in each resample, [resamples, n]."""
    chosen = torch.randint(n, (resamples, n), generator=generator)
    return torch.zeros(resamples, n).double().scatter_add_(1, chosen, torch.ones(resamples, n).double())


def _mmd_squared(within_a: Tensor, within_b: Tensor, across: Tensor, count_a: Tensor, count_b: Tensor) -> Tensor:
    """MMD^2 of weighted sets, [resamples]; a row of the counts is one resample, `within_*` have a zero diagonal."""

    def mean_within(k: Tensor, w: Tensor) -> Tensor:
        return ((w @ k) * w).sum(1) / (w.sum(1) ** 2 - w.square().sum(1))

    mean_across = ((count_a @ across) * count_b).sum(1) / (count_a.sum(1) * count_b.sum(1))
    return mean_within(within_a, count_a) + mean_within(within_b, count_b) - 2 * mean_across


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Distance of each pair, [N, M], without the matrix product whose rounding makes near-duplicates look far apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _neighbor_radius(x: Tensor, k: int) -> Tensor:
    """Distance of each image to its k-th nearest other image, [N]."""
    return euclidean(x, x).fill_diagonal_(0).kthvalue(k + 1, dim=1).values


def precision_recall(real: Tensor, samples: Tensor, k: int = 3) -> tuple[float, float]:
    """Fraction of samples within a real image's k-nearest-neighbour ball, and of real images within a sample's
    (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""
    real, samples = real.double(), samples.double()
    across = euclidean(real, samples)
    precision = (across <= _neighbor_radius(real, k)[:, None]).any(0).double().mean()
    recall = (across <= _neighbor_radius(samples, k)[None]).any(1).double().mean()
    return float(precision), float(recall)


def density_coverage(real: Tensor, samples: Tensor, k: int = 5) -> tuple[float, float]:
    """Number of real balls around a sample over k (about 1 for equal distributions), and the fraction of real balls
    that contain a sample (Naeem et al. 2020, arXiv 2002.09797); more robust to outliers than precision and recall."""
    real, samples = real.double(), samples.double()
    inside = euclidean(real, samples) < _neighbor_radius(real, k)[:, None]
    return float(inside.double().sum(0).mean() / k), float(inside.any(1).double().mean())


def measure(real: Tensor, samples: Tensor, seed: int = 0) -> tuple[dict[str, float], list[str]]:
    """Compute every metric that the numbers of images allow, and note which are missing or biased.

    FD falls as n grows, so it is computed from equally many images of each set; the others compare every pair of at
    most MAX_IMAGES images of each set. Subsets are random, because sets may come sorted by class.

    Returns:
        {"fd", "precision", "recall", "density", "coverage", "kd", "kd_low", "kd_high": value}, and notes.
    """
    metrics, notes, n, m, dim = {}, [], len(real), len(samples), real.shape[1]
    least, counts = min(n, m), f"there are {n} real images and {m} samples"
    if least > dim:
        metrics["fd"] = frechet_distance(subsample(real, least, seed), subsample(samples, least, seed))
    else:
        notes.append(f"FD needs more images than the {dim} features ({counts}); KD is unbiased at any number.")
    real, samples = subsample(real, MAX_IMAGES, seed).double(), subsample(samples, MAX_IMAGES, seed).double()
    if least >= MIN_IMAGES_FOR_PRECISION:
        metrics["precision"], metrics["recall"] = precision_recall(real, samples)
        metrics["density"], metrics["coverage"] = density_coverage(real, samples)
    else:
        notes.append(
            f"Precision, recall, density and coverage need at least {MIN_IMAGES_FOR_PRECISION} images of each set "
            f"({counts})."
        )
    if least >= MIN_IMAGES_FOR_KD:
        metrics["kd"], metrics["kd_low"], metrics["kd_high"] = kernel_distance(real, samples, seed=seed)
        if repeated := int((euclidean(real, samples).amin(0) <= IDENTICAL * samples.norm(dim=1)).sum()):
            notes.append(
                f"KD is too low: {repeated} of {m} samples are identical to an image that they are compared with, and "
                "KD assumes two independent sets."
            )
    else:
        notes.append(f"KD needs at least {MIN_IMAGES_FOR_KD} images of each set ({counts}).")
    return metrics, notes


def subsample(x: Tensor, n: int, seed: int) -> Tensor:
    """Choose n random rows, always the same ones for a seed; all rows where there are no more than n."""
    return x if len(x) <= n else x[seeds.permutation(len(x), seed, "some")[:n]]
