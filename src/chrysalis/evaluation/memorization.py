"""Near-duplicates of training images among samples, found in feature space and calibrated on validation images.

The loss does not show memorization. A near-duplicate is much nearer to one training image than that image is to any
other one. How near genuinely new images come is measured on the validation images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from chrysalis.evaluation.distances import euclidean

QUANTILE = 0.05  # quantile of the validation ratios used as the threshold: it flags this fraction of new images too
MIN_VALIDATION_IMAGES = 20  # fewer have no fifth percentile
MAX_VALIDATION_IMAGES = 1000  # more hardly make the percentile more exact
DUPLICATE_RATIO = 0.1  # a validation image with a lower ratio is in the training set itself
MAX_SPACING_IMAGES = 1000  # training images whose nearest neighbors are looked up for the spacing
SIGNIFICANCE_LEVEL = 0.01  # limit of the p-value, before a correction for several evaluations
MAX_DISTANCES = 2**24  # in memory at once


@dataclass(frozen=True)
class NearDuplicates:
    """The outcome for N samples.

    ratio: d(sample, nearest training image) / d(that image, its nearest other training image), [N].
    nearest: row of the nearest training image, [N].
    flagged: whether each sample is called a near-duplicate, bool [N].
    metrics: the median ratio and, with enough validation images, the fraction flagged, its 95 % interval (Wilson 1927),
    the probability that so many or more are flagged if samples are as new as validation images, and the fraction
    expected by chance; by the names they are logged under.
    """

    ratio: Tensor
    nearest: Tensor
    flagged: Tensor
    metrics: dict[str, float]


def distance_ratios(
    x: Tensor, train: Tensor, mirrored: Tensor | None = None, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(ratio, nearest), each [N], of features x [N, D] to training features [M, D].

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
    return distance / other.clamp(min=max(floor, torch.finfo(torch.float32).tiny))[which], nearest


def _nearest(x: Tensor, train: Tensor, leave_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(distance, row) of the training image nearest to each x. leave_out: for each x a training row to ignore."""
    nearest, at_once = [], max(1, MAX_DISTANCES // len(train))
    for start in range(0, len(x), at_once):
        part = slice(start, start + at_once)
        distance = euclidean(x[part].double(), train.double())
        if leave_out is not None:
            distance.scatter_(1, leave_out[part, None], torch.inf)
        nearest.append(distance.min(dim=1))
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])


class NearDuplicateDetector:
    """A detector of samples nearer to a training image than 95 % of the validation images are.

    train, validation: features [M, D] of at least two images, and [N, D]. mirrored: features of the mirrored validation
    images where training mirrors. The denominator of each ratio is at least half of the median spacing of the training
    images: an image that the set contains twice has distance 0 to its nearest other one, which would hide its
    near-duplicates.

    threshold: the `rank`-th smallest ratio of `n_validation` images, which is the 5th percentile of those that are not
    duplicates of training images themselves (`n_duplicates`); -inf where there are too few.
    """

    def __init__(self, train: Tensor, validation: Tensor, mirrored: Tensor | None = None):
        rows = torch.arange(0, len(train), -(-len(train) // MAX_SPACING_IMAGES))
        spacing, _ = _nearest(train[rows], train, leave_out=rows)
        self.train, self.floor = train, float(spacing.median()) / 2
        some = slice(MAX_VALIDATION_IMAGES)
        ratio, _ = distance_ratios(validation[some], train, None if mirrored is None else mirrored[some], self.floor)
        self.n_validation, self.n_duplicates = len(ratio), int((ratio < DUPLICATE_RATIO).sum())
        n_new = self.n_validation - self.n_duplicates
        self.rank = self.n_duplicates + max(1, round(QUANTILE * (n_new + 1)))  # counted from 1
        enough = n_new >= MIN_VALIDATION_IMAGES
        self.threshold = float(ratio.kthvalue(self.rank).values) if enough else -torch.inf

    @property
    def fraction_by_chance(self) -> float:
        """Expected fraction without memorization: 5 % (as near as n_validation images allow), plus the fraction of
        new images that the training set contains already."""
        return self.rank / (self.n_validation + 1)

    def notes(self) -> list[str]:
        """Sentences on validation images that are near-duplicates themselves, and on a missing threshold."""
        notes = []
        if self.n_duplicates:
            notes.append(
                f"Validation images that are near-duplicates of training images: {self.n_duplicates}. The validation "
                "loss is too low, and as large a fraction of new images is expected to be flagged without memorization."
            )
        if self.threshold == -torch.inf:
            notes.append(
                f"The fraction of near-duplicates needs at least {MIN_VALIDATION_IMAGES} validation images that are "
                f"not near-duplicates (there are {self.n_validation - self.n_duplicates}): raise data.val_fraction."
            )
        return notes

    def detect(self, samples: Tensor, mirrored: Tensor | None = None) -> NearDuplicates:
        """Compare features [N, D] of samples, and of their mirror images, with the training images."""
        ratio, nearest = distance_ratios(samples, self.train, mirrored, self.floor)
        metrics, flagged = {"median_distance_ratio": float(ratio.median())}, ratio < self.threshold
        if self.threshold > -torch.inf:
            from scipy.stats import betabinom, binomtest  # slow to import, and needed after sampling only

            hits, n = int(flagged.sum()), len(ratio)
            low, high = binomtest(hits, n).proportion_ci(0.95, method="wilson")
            metrics["near_duplicate_fraction"] = hits / n
            metrics["near_duplicate_fraction_low"], metrics["near_duplicate_fraction_high"] = float(low), float(high)
            # The fraction of new images below the k-th smallest of N ratios is Beta(k, N + 1 - k) distributed, and so
            # the number flagged is beta-binomial: this includes how uncertain a percentile of few images is
            chance = betabinom(n, self.rank, self.n_validation + 1 - self.rank)
            metrics["near_duplicate_p_value"] = float(chance.sf(hits - 1))
            metrics["near_duplicate_fraction_by_chance"] = self.fraction_by_chance
        return NearDuplicates(ratio, nearest, flagged, metrics)
