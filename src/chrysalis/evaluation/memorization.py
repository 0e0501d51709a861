"""Are these my training images? Drawn images held against their nearest training images, in feature space.

The loss does not show copying. A copy is much nearer to one training image than that one is to any other; how much
nearer images come that are certainly no copies is read off the validation images.
"""

from dataclasses import dataclass

import torch

QUANTILE = 0.05  # of validation images, below which a ratio is flagged: the share that is flagged of non-copies too
VALIDATION_LEAST = 20  # fewer have no fifth percentile
VALIDATION_MOST = 1000  # more would not make the percentile surer to any purpose
TWIN = 0.1  # a validation image with a lower ratio is in the training set itself
LOOKED_AT = 1000  # training images, for how far apart they are
SURE = 0.01
AT_ONCE = 2**24  # distances that are held in memory


@dataclass(frozen=True)
class Copies:
    """ratio [N]: d(drawn, nearest training image) / d(that one, its nearest other). nearest [N]: which one it is.

    threshold: the `rank`-th smallest of the ratios of `n_validation` images: the 5th percentile of those that are not
    `twins`, all but in the training set themselves. None where there are too few.
    """

    ratio: torch.Tensor
    nearest: torch.Tensor
    distance: torch.Tensor
    threshold: float | None
    n_validation: int
    rank: int
    twins: int

    @property
    def flagged(self) -> torch.Tensor:
        """bool [N]."""
        return self.ratio < self.threshold if self.threshold is not None else torch.zeros_like(self.ratio, dtype=bool)

    @property
    def share(self) -> float | None:
        return None if self.threshold is None else float(self.flagged.double().mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the share (Wilson 1927)."""
        return None if self.threshold is None else wilson(int(self.flagged.sum()), len(self.ratio))

    @property
    def expected(self) -> float:
        """The share that is flagged on average where nothing is copied: 5 %, as near as n_validation images allow,
        and what share of new images the set holds already."""
        return self.rank / (self.n_validation + 1)

    @property
    def chance(self) -> float:
        """The probability that so many or more are flagged if samples are as new as validation images.

        The share of new images below the k-th smallest of N others is Beta(k, N + 1 - k), so that their number is
        beta-binomial: a percentile of few validation images is a rough one, and that is counted in.
        """
        if self.threshold is None:
            return 1.0
        from scipy.stats import betabinom  # slow to import, and needed only once images have been drawn

        k, left = self.rank, self.n_validation + 1 - self.rank
        return float(betabinom.sf(int(self.flagged.sum()) - 1, len(self.ratio), k, left))

    @property
    def copies(self) -> bool:
        """Whether more are flagged than chance explains."""
        return self.chance < SURE


def rank(n: int) -> int:
    """Of the ratio of n validation images that stands at their 5th percentile, counted from 1."""
    return max(1, round(QUANTILE * (n + 1)))


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of n."""
    p, d = hits / n, 1 + z**2 / n
    centre, half = (p + z**2 / (2 * n)) / d, z / d * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def ratios(x: torch.Tensor, train: torch.Tensor, mirrored: torch.Tensor | None = None, floor: float = 0.0):
    """(ratio, nearest, distance) [N] of features x [N, D] to training features [M, D].

    mirrored: features of the mirror images of x, where training mirrors: whichever comes nearer counts. floor: the
    least distance between training images that is divided by, see `spacing`.
    """
    distance, nearest = _to_nearest(x, train)
    if mirrored is not None:
        again, also = _to_nearest(mirrored, train)
        distance, nearest = torch.minimum(distance, again), torch.where(again < distance, also, nearest)
    asked, which = nearest.unique(return_inverse=True)
    other, _ = _to_nearest(train[asked], train, leave_out=asked)
    return distance / other.clamp(min=max(floor, torch.finfo(torch.float32).tiny))[which], nearest, distance


def spacing(train: torch.Tensor) -> float:
    """The median distance of a training image to its nearest other one.

    Half of it is the floor of what is divided by: an image that a set holds twice, or nearly, has a distance of 0 to
    its other, and would make the most likely copies look like none.
    """
    some = torch.arange(0, len(train), -(-len(train) // LOOKED_AT))
    return float(_to_nearest(train[some], train, leave_out=some)[0].median())


def _to_nearest(x, train, leave_out: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(distance, row) of each x to its nearest training image, in parts that fit into memory.

    leave_out: a row for each x that is not counted.
    """
    nearest, at_once = [], max(1, AT_ONCE // len(train))
    for start in range(0, len(x), at_once):
        part = slice(start, start + at_once)
        apart = _apart(x[part], train)
        if leave_out is not None:
            apart.scatter_(1, leave_out[part, None], torch.inf)
        nearest.append(apart.min(dim=1))
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])


class Measure:
    """What is known of a data set before any image is drawn: [M, D] features learned from, and of validation images
    (of their mirror images too where training mirrors) how near new ones come."""

    def __init__(self, train: torch.Tensor, validation: torch.Tensor, mirrored: torch.Tensor | None = None):
        if len(train) < 2:
            raise ValueError("copies are looked for among at least two training images")
        self.train, self.floor = train, spacing(train) / 2
        some = slice(VALIDATION_MOST)
        new = torch.empty(0)
        if len(validation):
            new = ratios(validation[some], train, None if mirrored is None else mirrored[some], self.floor)[0]
        self.n_validation, self.twins = len(new), int((new < TWIN).sum())
        others = self.n_validation - self.twins
        self.rank = self.twins + rank(others)
        self.threshold = float(new.kthvalue(self.rank).values) if others >= VALIDATION_LEAST else None

    def hold(self, drawn: torch.Tensor, mirrored: torch.Tensor | None = None) -> Copies:
        """Features [N, D] of samples, and of their mirror images, against the set."""
        found = ratios(drawn, self.train, mirrored, self.floor)
        return Copies(*found, self.threshold, self.n_validation, self.rank, self.twins)


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
