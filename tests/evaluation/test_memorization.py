"""Near-duplicate detection, compared with its definition image by image and on sets with a known answer."""

import numpy as np
import pytest
import torch

from chrysalis.evaluation.memorization import (
    SIGNIFICANCE_LEVEL,
    NearDuplicateDetector,
    distance_ratios,
)


def points(n: int, seed: int, dim: int = 6) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def is_memorized(train: torch.Tensor, validation: torch.Tensor, samples: torch.Tensor) -> bool:
    found = NearDuplicateDetector(train, validation).detect(samples)
    return found.metrics["near_duplicate_p_value"] < SIGNIFICANCE_LEVEL


def test_the_ratio_follows_its_definition():
    train, samples = points(40, 0), points(25, 1)
    ratio, nearest = distance_ratios(samples, train)
    t = train.double().numpy()
    for i, x in enumerate(samples.double().numpy()):
        apart = np.linalg.norm(t - x, axis=1)
        near = apart.argmin()
        others = np.linalg.norm(np.delete(t, near, axis=0) - t[near], axis=1)
        assert nearest[i] == near
        assert float(ratio[i]) == pytest.approx(apart[near] / others.min())


def test_near_duplicates_are_flagged_and_new_images_are_not():
    train, validation = points(300, 0), points(100, 1)
    detector = NearDuplicateDetector(train, validation)
    new = detector.detect(points(400, 2)).metrics
    assert new["near_duplicate_p_value"] >= SIGNIFICANCE_LEVEL
    assert 0.01 < new["near_duplicate_fraction"] < 0.12
    copied = train[:200] + 0.05 * points(200, 3)
    found = detector.detect(torch.cat([points(200, 4), copied]))
    assert found.metrics["near_duplicate_p_value"] < SIGNIFICANCE_LEVEL
    assert found.flagged[200:].all()
    assert found.nearest[200:].tolist() == list(range(200))
    assert 0.5 <= found.metrics["near_duplicate_fraction"] < 0.58


def test_mirrored_near_duplicates_count_only_where_training_mirrors():
    """The sign of the first feature stands for the side that an image shows."""
    train, samples, validation = points(200, 0) + 3, points(60, 1) + 3, points(50, 2) + 3
    other = torch.tensor([-1.0, 1, 1, 1, 1, 1])
    samples[:30] = (train[:30] + 0.01 * points(30, 3)) * other
    found = NearDuplicateDetector(train, validation, validation * other).detect(samples, samples * other)
    assert found.flagged[:30].all()
    assert found.nearest[:30].tolist() == list(range(30))
    assert not NearDuplicateDetector(train, validation).detect(samples).flagged[:30].any()


def test_computing_in_parts_changes_nothing(monkeypatch):
    train, samples = points(300, 0), points(64, 1)
    whole = distance_ratios(samples, train, points(64, 2))
    import chrysalis.evaluation.memorization as m

    monkeypatch.setattr(m, "MAX_DISTANCES", 1000)
    for a, b in zip(whole, distance_ratios(samples, train, points(64, 2)), strict=True):
        assert torch.equal(a, b)


def test_too_few_validation_images_give_no_fraction():
    detector = NearDuplicateDetector(points(30, 1), points(19, 2))
    few = detector.detect(points(30, 0))
    assert few.metrics == {"median_distance_ratio": pytest.approx(few.ratio.median().item())}
    assert not few.flagged.any()
    assert len(few.ratio) == 30
    (note,) = detector.notes()
    assert "needs at least 20 validation images that are not near-duplicates (there are 19)" in note


def test_false_positives_are_as_rare_as_the_p_value_says():
    """1 % of sets without near-duplicates: of 300 sets 3 are expected, and more than 10 once in a thousand times."""
    train, alarms = points(60, 0), 0
    for seed in range(300):
        alarms += is_memorized(train, points(24, 2 * seed + 2), points(40, 2 * seed + 1))
    assert alarms <= 10


@pytest.mark.parametrize("apart", [0.0, 0.01], ids=["twice", "nearly twice"])
def test_near_duplicates_of_repeated_training_images_are_found(apart):
    """A repeated image has a distance of about 0 to its nearest other one."""
    train = torch.cat([points(300, 0), points(300, 0)[:60] + apart * points(60, 1)])
    found = NearDuplicateDetector(train, points(100, 2)).detect(
        torch.cat([train[:60] + 0.02 * points(60, 3), points(100, 4)])
    )
    assert found.flagged[:60].all()
    assert found.flagged[60:].double().mean() < 0.15
    assert not is_memorized(train, points(100, 2), points(100, 4))


def test_validation_images_that_are_trained_on_too_do_not_lower_the_threshold():
    train = points(300, 0)
    validation = torch.cat([points(100, 1), train[:8]])
    detector = NearDuplicateDetector(train, validation)
    assert (detector.n_duplicates, detector.n_validation) == (8, 108)
    assert detector.threshold == NearDuplicateDetector(train, points(100, 1)).threshold
    found = detector.detect(train[:50] + 0.01 * points(50, 2))
    assert found.flagged.all()
    assert detector.fraction_by_chance == pytest.approx((8 + 5) / 109)
    assert detector.notes()[0].startswith("Validation images that are near-duplicates of training images: 8.")


def test_sets_that_contain_near_duplicates_are_not_called_memorized():
    """A tenth of the training images, the validation images and the samples lies in the same five tight clusters."""
    centres = 3 * points(5, 7)

    def alike(n: int, seed: int) -> torch.Tensor:
        x = points(n, seed)
        x[: n // 10] = centres[torch.arange(n // 10) % 5] + 1e-3 * points(n // 10, seed + 5000)
        return x

    alarms = [is_memorized(alike(400, 3 * s), alike(100, 3 * s + 1), alike(200, 3 * s + 2)) for s in range(40)]
    assert sum(alarms) <= 3


def test_the_least_denominator_is_half_the_median_distance_to_the_nearest_training_image():
    t = points(80, 0).double().numpy()
    apart = np.linalg.norm(t[:, None] - t[None], axis=2) + np.diag(np.full(80, np.inf))
    assert NearDuplicateDetector(points(80, 0), points(20, 1)).floor == pytest.approx(np.sort(apart.min(1))[39] / 2)


def test_the_fraction_by_chance_is_right():
    """With 28 validation images it is 1 / 29 instead of 5 %."""
    train, fractions = points(60, 0), []
    for seed in range(200):
        found = NearDuplicateDetector(train, points(28, 2 * seed + 1)).detect(points(40, 2 * seed + 2)).metrics
        fractions.append(found["near_duplicate_fraction"])
    by_chance = found["near_duplicate_fraction_by_chance"]
    assert by_chance == pytest.approx(1 / 29)
    assert np.mean(fractions) == pytest.approx(by_chance, abs=4 * np.std(fractions) / 200**0.5)


@pytest.mark.parametrize("n_copied", [0, 3, 10])
def test_the_interval_of_the_fraction_is_wilsons(n_copied):
    train = points(100, 0)
    samples = torch.cat([train[:n_copied], 9 + points(10 - n_copied, 2)])
    found = NearDuplicateDetector(train, points(40, 1)).detect(samples).metrics
    p, z, n = found["near_duplicate_fraction"], 1.959964, 10
    assert p == n_copied / n
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = ((p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    assert (found["near_duplicate_fraction_low"], found["near_duplicate_fraction_high"]) == pytest.approx((low, high))
