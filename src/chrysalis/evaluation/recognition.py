"""Whether samples show what a labeled data set shows: their distance to the labels' images in feature space."""

import torch
from torch import Tensor

from chrysalis.evaluation.memorization import MIN_VALIDATION_IMAGES

MIN_IMAGES_PER_LABEL = 8  # in training; sets with rarer labels are not used
QUANTILE = 0.95  # quantile of the validation images' distances used as the threshold: 5 % of real images lie beyond it
SHRINKAGE = 0.01  # moves the covariance towards a multiple of the identity, for directions with hardly any variance


class Recognizer:
    """Gaussians of one covariance around the mean features of each label, from features [N, D] and labels int64 [N]
    (0 to L - 1, or -1 if unlabeled).

    An image is recognized if its Mahalanobis distance to the nearest label's mean (Lee et al. 2018, arXiv 1807.03888)
    is at most that of 95 % of the validation images. A classifier's confidence would not do: it is high for images far
    from every label too.
    """

    def __init__(self, train: Tensor, labels: Tensor, validation: Tensor):
        names, index = labels[labels >= 0].unique(return_inverse=True)
        x = train[labels >= 0].double()
        self.means = torch.stack([x[index == i].mean(0) for i in range(len(names))])
        covariance = (x - self.means[index]).T.cov(correction=len(names))
        covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype)
        self.root = torch.linalg.cholesky(covariance)
        real = self.squared_distances(validation)
        self.threshold, self.entropy = real.amin(1).quantile(QUANTILE), _label_entropy(real)

    def squared_distances(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distances of features [N, D] to the L labels, float64 [N, L]."""
        x, means = (
            torch.linalg.solve_triangular(self.root, v.T, upper=False).T for v in (features.double(), self.means)
        )
        return torch.cdist(x, means).square()

    def measure(self, samples: Tensor) -> dict[str, float]:
        """Measure the features [N, D] of samples.

        Returns:
            recognized: fraction of samples, about 0.95 for real images. label_balance: entropy of the samples' labels
            over that of the validation images', about 1 if no label is missing or favored.
        """
        squared = self.squared_distances(samples)
        recognized = (squared.amin(1) <= self.threshold).double().mean()
        return {"recognized": float(recognized), "label_balance": float(_label_entropy(squared) / self.entropy)}


def _label_entropy(squared: Tensor) -> Tensor:
    """The entropy of the mean of p(label | image), with equal priors, from squared distances [N, L]."""
    p = (-squared / 2).softmax(1).mean(0)
    return -torch.special.xlogy(p, p).sum()


def is_possible(labels: Tensor, n_validation: int) -> bool:
    """Whether there are two labels or more, each with enough images, and enough validation images for a threshold."""
    counts = labels[labels >= 0].unique(return_counts=True)[1]
    return len(counts) > 1 and int(counts.min()) >= MIN_IMAGES_PER_LABEL and n_validation >= MIN_VALIDATION_IMAGES
