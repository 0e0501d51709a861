"""Copies are found, others are not: against the definition, one image after the other, and sets that are known."""

import numpy as np
import pytest
import torch

from chrysalis.evaluation.memorization import Measure, ratios, spacing, wilson


def points(n: int, seed: int, dim: int = 6) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_the_ratio_is_its_definition():
    train, drawn = points(40, 0), points(25, 1)
    ratio, nearest, distance = ratios(drawn, train)
    t = train.double().numpy()
    for i, x in enumerate(drawn.double().numpy()):
        apart = np.linalg.norm(t - x, axis=1)
        near = apart.argmin()
        others = np.linalg.norm(np.delete(t, near, axis=0) - t[near], axis=1)
        assert nearest[i] == near
        assert float(distance[i]) == pytest.approx(apart[near])
        assert float(ratio[i]) == pytest.approx(apart[near] / others.min())


def test_copies_are_flagged_and_new_pictures_are_not():
    train, validation = points(300, 0), points(100, 1)
    measure = Measure(train, validation)
    new = measure.hold(points(400, 2))
    assert not new.copies
    assert 0.01 < new.share < 0.12
    assert new.chance > 0.01
    copied = train[:200] + 0.05 * points(200, 3)
    found = measure.hold(torch.cat([points(200, 4), copied]))
    assert found.copies
    assert found.flagged[200:].all()
    assert found.nearest[200:].tolist() == list(range(200))
    assert 0.5 <= found.share < 0.58


def test_a_mirrored_copy_is_a_copy_only_of_a_run_that_mirrors():
    """Features of which the sign of the first one is the side that the image shows."""
    train, drawn, validation = points(200, 0) + 3, points(60, 1) + 3, points(50, 2) + 3
    other = torch.tensor([-1.0, 1, 1, 1, 1, 1])
    drawn[:30] = (train[:30] + 0.01 * points(30, 3)) * other
    found = Measure(train, validation, validation * other).hold(drawn, drawn * other)
    assert found.flagged[:30].all()
    assert found.nearest[:30].tolist() == list(range(30))
    assert not Measure(train, validation).hold(drawn).flagged[:30].any()


def test_parts_change_nothing(monkeypatch):
    train, drawn = points(300, 0), points(64, 1)
    whole = ratios(drawn, train, points(64, 2))
    import chrysalis.evaluation.memorization as m

    monkeypatch.setattr(m, "AT_ONCE", 1000)
    for a, b in zip(whole, ratios(drawn, train, points(64, 2)), strict=True):
        assert torch.equal(a, b)


def test_too_few_held_out_pictures_withhold_the_share():
    few = Measure(points(30, 1), points(19, 2)).hold(points(30, 0))
    assert (few.threshold, few.share, few.interval, few.copies) == (None, None, None, False)
    assert not few.flagged.any()
    assert len(few.ratio) == 30


def test_a_false_alarm_is_as_rare_as_it_says():
    """1 % of sets without a copy; of 300 such sets 3 are expected, and more than 10 one time in a thousand."""
    train, alarms = points(60, 0), 0
    for seed in range(300):
        alarms += Measure(train, points(24, 2 * seed + 2)).hold(points(40, 2 * seed + 1)).copies
    assert alarms <= 10


@pytest.mark.parametrize("apart", [0.0, 0.01], ids=["twice", "nearly twice"])
def test_copies_of_what_a_set_holds_twice_are_copies(apart):
    """Their distance to the nearest other one is all but 0."""
    train = torch.cat([points(300, 0), points(300, 0)[:60] + apart * points(60, 1)])
    found = Measure(train, points(100, 2)).hold(torch.cat([train[:60] + 0.02 * points(60, 3), points(100, 4)]))
    assert found.flagged[:60].all()
    assert found.flagged[60:].double().mean() < 0.15
    assert not Measure(train, points(100, 2)).hold(points(100, 4)).copies


def test_held_out_pictures_that_are_trained_on_too_are_no_measure_for_new_ones():
    train = points(300, 0)
    validation = torch.cat([points(100, 1), train[:8]])
    measure = Measure(train, validation)
    assert (measure.twins, measure.n_validation) == (8, 108)
    assert measure.threshold == Measure(train, points(100, 1)).threshold
    found = measure.hold(train[:50] + 0.01 * points(50, 2))
    assert found.flagged.all()
    assert found.expected == pytest.approx((8 + 5) / 109)


def test_a_set_of_near_duplicates_is_not_called_copied():
    """A tenth of it lies in five tight clusters, of what is learned from, held out and drawn alike."""
    centres = 3 * points(5, 7)

    def alike(n: int, seed: int) -> torch.Tensor:
        x = points(n, seed)
        x[: n // 10] = centres[torch.arange(n // 10) % 5] + 1e-3 * points(n // 10, seed + 5000)
        return x

    alarms = [Measure(alike(400, 3 * s), alike(100, 3 * s + 1)).hold(alike(200, 3 * s + 2)).copies for s in range(40)]
    assert sum(alarms) <= 3


def test_spacing_is_the_median_of_nearest_distances():
    t = points(80, 0).double().numpy()
    apart = np.linalg.norm(t[:, None] - t[None], axis=2) + np.diag(np.full(80, np.inf))
    assert spacing(points(80, 0)) == pytest.approx(np.sort(apart.min(1))[39])


def test_the_share_that_chance_flags_is_what_it_says():
    """Over many sets of 28 validation images: 1 of 29, and not 5 %."""
    train, shares = points(60, 0), []
    for seed in range(200):
        found = Measure(train, points(28, 2 * seed + 1)).hold(points(40, 2 * seed + 2))
        shares.append(found.share)
    assert found.expected == pytest.approx(1 / 29)
    assert np.mean(shares) == pytest.approx(found.expected, abs=4 * np.std(shares) / 200**0.5)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (25, 400)])
def test_the_interval_of_a_share_is_the_literature_one(hits, n):
    from scipy.stats import binomtest

    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
