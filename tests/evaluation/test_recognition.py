"""Recognition of the labels: distances as scipy computes them, and what is and is not recognized."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from chrysalis.evaluation import recognition
from chrysalis.evaluation.recognition import Recognizer

LABELS, DIM = 4, 6


def drawn(n, seed, labels=range(LABELS)):
    """(features, labels) of n images: Gaussians of one covariance around LABELS centers."""
    generator = torch.Generator().manual_seed(seed)
    centers = 6 * torch.randn(LABELS, DIM, generator=torch.Generator().manual_seed(0))
    mix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1)) + 2 * torch.eye(DIM)
    chosen = torch.tensor(list(labels))[torch.arange(n) % len(labels)]
    return centers[chosen] + torch.randn(n, DIM, generator=generator) @ mix, chosen


def test_distances_are_those_of_scipy():
    x, labels = drawn(400, 2)
    recognizer = Recognizer(x, labels, drawn(100, 3)[0])
    means = np.stack([x[labels == k].double().numpy().mean(0) for k in range(LABELS)])
    within = x.double().numpy() - means[labels]
    covariance = within.T @ within / (len(x) - LABELS)
    covariance += 0.01 * covariance.diagonal().mean() * np.eye(DIM)
    points = drawn(5, 4)[0]
    expected = [[mahalanobis(p, m, np.linalg.inv(covariance)) ** 2 for m in means] for p in points.double().numpy()]
    np.testing.assert_allclose(recognizer.squared_distances(points), expected, rtol=1e-9)


def test_real_images_are_recognized_and_others_are_not():
    recognizer = Recognizer(*drawn(2000, 2), drawn(1000, 3)[0])
    assert recognizer.measure(drawn(4000, 5)[0])["recognized"] == pytest.approx(0.95, abs=0.02)
    assert recognizer.measure(drawn(4000, 5)[0])["label_balance"] == pytest.approx(1, abs=0.01)
    far = drawn(500, 6)[0] + 30
    assert recognizer.measure(far)["recognized"] == 0
    between = drawn(500, 6)[0].mean(0).expand(500, -1)
    assert recognizer.measure(between)["recognized"] == 0


def test_a_missing_label_lowers_the_balance():
    recognizer = Recognizer(*drawn(2000, 2), drawn(1000, 3)[0])
    two = recognizer.measure(drawn(500, 7, labels=(0, 1))[0])
    assert two["label_balance"] == pytest.approx(np.log(2) / np.log(4), abs=0.02)
    assert recognizer.measure(drawn(500, 7, labels=(2,))[0])["label_balance"] < 0.1


def test_unlabelled_images_and_unused_labels_count_for_nothing():
    x, labels = drawn(400, 2)
    validation = drawn(100, 3)[0]
    more = torch.cat([x, torch.full((9, DIM), 1e3)]), torch.cat([2 * labels, torch.full((9,), -1)])
    expected = Recognizer(x, labels, validation).measure(validation)
    assert Recognizer(*more, validation).measure(validation) == pytest.approx(expected)


def test_when_labels_are_too_few():
    labels = torch.tensor([0] * 8 + [1] * 8)
    assert recognition.is_possible(labels, 20)
    assert not recognition.is_possible(labels, 19)
    assert not recognition.is_possible(labels[:15], 20)
    assert not recognition.is_possible(labels[:8], 20)
    assert not recognition.is_possible(torch.tensor([-1] * 20), 20)
