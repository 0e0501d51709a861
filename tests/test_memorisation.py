"""Copies are found, others are not: against the definition, one picture after the other, and sets that are known."""

import numpy as np
import pytest
import torch

from chrysalis.metrics.memorisation import copies, ratios, wilson


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
    train, held_out = points(300, 0), points(100, 1)
    new = copies(points(400, 2), train, held_out)
    assert not new.copies
    assert 0.01 < new.share < 0.12
    assert new.chance > 0.01
    copied = train[:200] + 0.05 * points(200, 3)
    found = copies(torch.cat([points(200, 4), copied]), train, held_out)
    assert found.copies
    assert found.flagged[200:].all()
    assert found.nearest[200:].tolist() == list(range(200))
    assert 0.5 <= found.share < 0.58


def test_a_mirrored_copy_is_a_copy_only_of_a_run_that_mirrors():
    """Features of which the sign of the first one is the side that the picture shows."""
    train, drawn, held_out = points(200, 0) + 3, points(60, 1) + 3, points(50, 2) + 3
    other = torch.tensor([-1.0, 1, 1, 1, 1, 1])
    drawn[:30] = (train[:30] + 0.01 * points(30, 3)) * other
    found = copies(drawn, train, held_out, drawn * other, held_out * other)
    assert found.flagged[:30].all()
    assert found.nearest[:30].tolist() == list(range(30))
    assert not copies(drawn, train, held_out).flagged[:30].any()


def test_parts_change_nothing(monkeypatch):
    train, drawn = points(300, 0), points(64, 1)
    whole = ratios(drawn, train, points(64, 2))
    import chrysalis.metrics.memorisation as m

    monkeypatch.setattr(m, "AT_ONCE", 1000)
    for a, b in zip(whole, ratios(drawn, train, points(64, 2)), strict=True):
        assert torch.equal(a, b)


def test_too_few_held_out_pictures_withhold_the_share():
    few = copies(points(30, 0), points(30, 1), points(19, 2))
    assert (few.threshold, few.share, few.interval, few.copies) == (None, None, None, False)
    assert not few.flagged.any()
    assert len(few.ratio) == 30


def test_a_false_alarm_is_as_rare_as_it_says():
    """1 % of sets without a copy; of 300 such sets 3 are expected, and more than 10 one time in a thousand."""
    train, alarms = points(60, 0), 0
    for seed in range(300):
        alarms += copies(points(40, 2 * seed + 1), train, points(24, 2 * seed + 2)).copies
    assert alarms <= 10


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (25, 400)])
def test_the_interval_of_a_share_is_the_literature_one(hits, n):
    from scipy.stats import binomtest

    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
