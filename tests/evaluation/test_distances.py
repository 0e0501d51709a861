"""Distances of sets of features: against torch-fidelity, torchmetrics, NumPy by hand, and what must come out."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from chrysalis.evaluation import distances as d


def features(n: int, dim: int = 8, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, dim, generator=generator) @ mixed * scale + shift


@pytest.fixture(params=[(400, 300, 8), (150, 150, 64)], ids=["400 x 300 x 8", "150 x 150 x 64"])
def two(request):
    n, m, dim = request.param
    return features(n, dim), features(m, dim, 0.3, 1.2, seed=1)


def test_frechet_is_theirs(two):
    a, b = two
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in two), verbose=False)
    assert d.frechet(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    trajectory_columns = (m for x in two for m in (x.double().mean(0), x.double().T.cov()))
    assert d.frechet(a, b) == pytest.approx(float(_compute_fid(*trajectory_columns)), rel=1e-4)


def test_frechet_of_fewer_pictures_than_features_has_no_root_to_take():
    """Against the definition with a float64 eigendecomposition, where S_a S_b is singular."""
    a, b = features(20, 64).double().numpy(), features(30, 64, 1.0, seed=1).double().numpy()
    s, t = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    by_hand = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * shared
    assert d.frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(by_hand, rel=1e-5)


def test_frechet_of_two_gaussians_comes_to_the_closed_form():
    a, b = torch.randn(200_000, 3), torch.randn(200_000, 3) * 2 + 1
    assert d.frechet(a, b) == pytest.approx(3 * 1 + 3 * (1 + 4 - 2 * 2), rel=0.02)


def test_kernel_is_theirs(two):
    a, b = (x[:150] for x in two)
    ours = d.kernel(a, b)
    theirs = kid_features_to_metric(
        a.double(), b.double(), kid_subsets=1, kid_subset_size=150, kid_kernel="poly", verbose=False
    )
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    k = [d.polynomial(x.double(), y.double()) for x, y in ((a, a), (a, b), (b, b))]
    assert ours.value == pytest.approx(float(poly_mmd(a.double(), b.double())), rel=1e-4)
    assert torch.allclose(k[1], (a.double() @ b.double().T / a.shape[1] + 1) ** 3)
    assert ours.low < ours.value < ours.high


def test_kernel_is_right_on_average_at_any_n():
    """MMD^2 of two sets of 12 has the mean of two of 2000."""
    a, b = (features(6000, shift=shift, seed=i).view(500, 12, 8) for i, shift in enumerate((0, 0.4)))
    few = torch.tensor([d.kernel(x, y, resamples=1).value for x, y in zip(a, b, strict=True)])
    many = d.kernel(features(3000, seed=2), features(3000, shift=0.4, seed=3), resamples=10)
    assert abs(few.mean() - many.value) < 3 * few.std() / len(few) ** 0.5 + (many.high - many.low)


@pytest.mark.parametrize("n", [60, *(pytest.param(n, marks=pytest.mark.proof) for n in (20, 200))])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_holds_the_truth_nineteen_times_of_twenty(n, shift):
    truth = 0.0 if shift == 0 else d.kernel(features(4000, seed=-1), features(4000, shift=shift, seed=-2), 2).value
    held = 0
    for i in range(60):
        k = d.kernel(features(n, seed=10 + i), features(n, shift=shift, seed=1000 + i), resamples=300)
        held += k.low <= truth <= k.high
    assert held >= 51, held  # of 57 expected; four standard deviations


def test_two_halves_of_one_set_are_none_apart():
    for seed in range(10):
        one = features(400, 32, seed=seed)
        k = d.kernel(one[:200], one[200:])
        assert k.low < 0 < k.high


def test_precision_and_recall_are_theirs(two):
    real, drawn = two
    theirs = prc_features_to_metric(drawn.double(), real.double(), prc_neighborhood=3, verbose=False)
    assert d.precision_recall(real, drawn) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-4)


def test_density_and_coverage_are_their_definition(two):
    """Naeem et al. 2020, equations 3 and 4, one image after the other."""
    real, drawn = (x.double().numpy()[:80] for x in two)
    radius = [np.sort(np.linalg.norm(real - r, axis=1))[5] for r in real]
    inside = np.array([[np.linalg.norm(y - r) < q for y in drawn] for r, q in zip(real, radius, strict=True)])
    density, coverage = d.density_coverage(torch.from_numpy(real), torch.from_numpy(drawn))
    assert density == pytest.approx(inside.sum() / (5 * len(drawn)))
    assert coverage == pytest.approx(inside.any(1).mean())


def test_lost_modes_cost_recall_and_coverage_and_noise_costs_precision_and_density():
    real = torch.cat([features(150), features(150, shift=12, seed=1)])
    half, noisy = features(300, seed=2), torch.cat([features(150, seed=2), features(150, shift=12, seed=3)])
    lost = d.distances(real, half)
    assert lost.precision > 0.9
    assert lost.recall < 0.6
    assert lost.coverage < 0.6
    spoiled = d.distances(real, noisy + 6 * torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    assert spoiled.precision < 0.8
    assert spoiled.density < 0.5


def test_figures_do_not_know_the_order(two):
    a, b = two
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
    assert d.frechet(a[order], b) == pytest.approx(d.frechet(a, b), rel=1e-9)
    assert d.kernel(a[order], b).value == pytest.approx(d.kernel(a, b).value, rel=1e-9)
    assert d.precision_recall(a[order], b) == pytest.approx(d.precision_recall(a, b))


def test_what_so_few_pictures_cannot_support_is_withheld_and_says_why():
    few = d.distances(features(40, 64), features(15, 64, seed=1))
    assert (few.fd, few.kd, few.precision, few.coverage) == (None, None, None, None)
    assert [sentence.split(" ")[0] for sentence in few.why] == ["FD", "precision,", "KD"]
    assert "more images than the 64 features (there are 40 real and 15 drawn ones)" in few.why[0]
    enough = d.distances(features(100, 64), features(90, 64, seed=1))
    assert enough.why == ()
    assert enough.fd == pytest.approx(d.frechet(d.some(features(100, 64), 90, 0), features(90, 64, seed=1)))


def test_a_set_that_repeats_real_images_says_that_kd_is_too_low():
    real, new = features(100, 64), features(80, 64, seed=1)
    drawn = torch.cat([new, real[:20] * (1 + 1e-7)])
    assert (d.repeated(real, new), d.repeated(real, drawn)) == (0, 20)
    (why,) = d.distances(real, drawn).why
    assert why.startswith("KD is too low, below 0 of a set and itself: 20 of 100 samples are images that they are held")


def test_sets_sorted_by_kind_are_as_far_apart_as_mixed_ones(monkeypatch):
    """Where not all are looked at, those that are must be of every kind."""
    real = torch.cat([features(100, 4), features(100, 4, shift=6, seed=1)])[torch.randperm(200)]
    drawn = torch.cat([features(400, 4, seed=2), features(400, 4, shift=6, seed=3)])
    monkeypatch.setattr(d, "MOST", 150)
    by_kind, mixed = d.distances(real, drawn), d.distances(real, drawn[torch.randperm(800)])
    assert by_kind.fd < 10
    assert mixed.fd < 10  # one kind alone: above 30
    assert by_kind.kd.low < mixed.kd.value < by_kind.kd.high
    assert abs(by_kind.coverage - mixed.coverage) < 0.15


def test_features_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 3\] and \[4, 2\]"):
        d.kernel(torch.zeros(4, 3), torch.zeros(4, 2))


@pytest.mark.parametrize("n", [20, 200])
def test_kernel_distance_of_a_set_to_itself_is_about_zero(n):
    """Below it by 2 / n of what an image is nearer to itself than to others; its interval holds it."""
    x = features(n, 64).double()
    k = d.polynomial(x, x)
    itself, others = k.diagonal().mean(), (k.sum() - k.trace()) / (n * (n - 1))
    found = d.kernel(x, x)
    assert found.value == pytest.approx(float(2 / n * (others - itself)))
    assert found.low <= found.value <= found.high
