"""Near-duplicates of training images among samples, found in feature space and calibrated on validation images.

The loss does not show memorization. A near-duplicate is much nearer to one training image than that image is to any
other one. How near genuinely new images come is measured on the validation images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from chrysalis.evaluation.distances import euclidean

QUANTILE = 0.05  # of the validation images' ratios: the threshold, which flags this fraction of new images too
MIN_VALIDATION_IMAGES = 20  # fewer have no fifth percentile
MAX_VALIDATION_IMAGES = 1000  # more hardly make the percentile more exact
DUPLICATE_RATIO = 0.1  # a validation image with a lower ratio is in the training set itself
MAX_SPACING_IMAGES = 1000  # training images whose nearest neighbours are looked up for the spacing
SIGNIFICANCE_LEVEL = 0.01  # of the p-value, before a correction for several evaluations
MAX_DISTANCES = 2**24  # in memory at once


@dataclass(frozen=True)
class NearDuplicates:
    """The outcome for N samples.

    ratio: d(sample, nearest training image) / d(that image, its nearest other training image), [N].
    nearest: row of the nearest training image, [N].
    threshold: the `rank`-th smallest ratio of `n_validation` images, which is the 5th percentile of those that are not
    duplicates of training images themselves (`n_duplicates`); None where there are too few.
    """

    ratio: Tensor
    nearest: Tensor
    threshold: float | None
    n_validation: int
    rank: int
    n_duplicates: int

    @property
    def flagged(self) -> Tensor:
        """Whether each sample is called a near-duplicate, bool [N]."""
        return self.ratio < (-torch.inf if self.threshold is None else self.threshold)

    @property
    def fraction(self) -> float | None:
        return None if self.threshold is None else float(self.flagged.double().mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the fraction."""
        return None if self.threshold is None else wilson_interval(int(self.flagged.sum()), len(self.ratio))

    @property
    def fraction_by_chance(self) -> float:
        """Expected fraction without memorization: 5 % (as near as n_validation images allow), plus the fraction of
        new images that the training set contains already."""
        return self.rank / (self.n_validation + 1)

    @property
    def p_value(self) -> float:
        """Probability that so many or more are flagged if samples are as new as validation images.

        The fraction of new images below the k-th smallest of N ratios is Beta(k, N + 1 - k) distributed, and so the
        number flagged is beta-binomial; this includes how uncertain a percentile of few validation images is.
        """
        if self.threshold is None:
            return 1.0
        from scipy.stats import betabinom  # slow to import, and needed after sampling only

        k, left = self.rank, self.n_validation + 1 - self.rank
        return float(betabinom.sf(int(self.flagged.sum()) - 1, len(self.ratio), k, left))


def percentile_rank(n: int) -> int:
    """Rank, counted from 1, of the 5th percentile of n values."""
    return max(1, round(QUANTILE * (n + 1)))


def wilson_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a fraction (Wilson 1927)."""
    p, d = hits / n, 1 + z**2 / n
    centre, half = (p + z**2 / (2 * n)) / d, z / d * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def distance_ratios(
    x: Tensor, train: Tensor, mirrored: Tensor | None = None, floor: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(ratio, nearest, distance), each [N], of features x [N, D] to training features [M, D].

    mirrored: features of the mirrored images x where training mirrors; the nearer version counts. floor: the smallest
    denominator of the ratio.
    """
    distance, nearest = _nearest(x, train)
    if mirrored is not None:
        mirrored_distance, mirrored_nearest = _nearest(mirrored, train)
        nearest = torch.where(mirrored_distance < distance, mirrored_nearest, nearest)
        distance = torch.minimum(distance, mirrored_distance)
    rows, which = nearest.unique(return_inverse=True)
    other, _ = _nearest(train[rows], train, leave_out=rows)
    return distance / other.clamp(min=max(floor, torch.finfo(torch.float32).tiny))[which], nearest, distance


def median_spacing(train: Tensor) -> float:
    """The median distance of a training image to its nearest other training image."""
    rows = torch.arange(0, len(train), -(-len(train) // MAX_SPACING_IMAGES))
    return float(_nearest(train[rows], train, leave_out=rows)[0].median())


def _nearest(x: Tensor, train: Tensor, leave_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(distance, row) of the training image nearest to each x. leave_out: a training row for each x not to count."""
    nearest, at_once = [], max(1, MAX_DISTANCES // len(train))
    for start in range(0, len(x), at_once):
        part = slice(start, start + at_once)
        distance = euclidean(x[part].double(), train.double())
        if leave_out is not None:
            distance.scatter_(1, leave_out[part, None], torch.inf)
        nearest.append(distance.min(dim=1))
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])


class NearDuplicateDetector:
    """Flags samples nearer to a training image than 95 % of the validation images are.

    train, validation: features [M, D] of at least two images, and [N, D]. mirrored: features of the mirrored validation
    images where training mirrors. The denominator of each ratio is at least half of the median spacing of the training
    images: an image that the set contains twice has distance 0 to its nearest other one, which would hide its
    near-duplicates.
    """

    def __init__(self, train: Tensor, validation: Tensor, mirrored: Tensor | None = None):
        if len(train) < 2:
            raise ValueError("near-duplicates are detected among at least two training images")
        self.train, self.floor = train, median_spacing(train) / 2
        some, ratio = slice(MAX_VALIDATION_IMAGES), torch.empty(0)
        if len(validation):
            mirrored = None if mirrored is None else mirrored[some]
            ratio, _, _ = distance_ratios(validation[some], train, mirrored, self.floor)
        self.n_validation, self.n_duplicates = len(ratio), int((ratio < DUPLICATE_RATIO).sum())
        n_new = self.n_validation - self.n_duplicates
        self.rank = self.n_duplicates + percentile_rank(n_new)
        self.threshold = float(ratio.kthvalue(self.rank).values) if n_new >= MIN_VALIDATION_IMAGES else None

    def detect(self, samples: Tensor, mirrored: Tensor | None = None) -> NearDuplicates:
        """Compare features [N, D] of samples, and of their mirror images, with the training images."""
        ratio, nearest, _ = distance_ratios(samples, self.train, mirrored, self.floor)
        return NearDuplicates(ratio, nearest, self.threshold, self.n_validation, self.rank, self.n_duplicates)
