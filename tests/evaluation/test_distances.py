"""Distances between sets of features, compared with torch-fidelity, torchmetrics, NumPy and closed forms."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd
from torchvision.transforms.functional import gaussian_blur

from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.evaluation import distances as d
from chrysalis.evaluation.features import DenoiserEncoder, extract


def features(n: int, dim: int = 8, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, dim, generator=generator) @ mixed * scale + shift


@pytest.fixture(params=[(400, 300, 8), (150, 150, 64)], ids=["400 x 300 x 8", "150 x 150 x 64"])
def two(request):
    n, m, dim = request.param
    return features(n, dim), features(m, dim, 0.3, 1.2, seed=1)


def test_frechet_distance_equals_torch_fidelity_and_torchmetrics(two):
    a, b = two
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in two), verbose=False)
    assert d.frechet_distance(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    moments = (m for x in two for m in (x.double().mean(0), x.double().T.cov()))
    assert d.frechet_distance(a, b) == pytest.approx(float(_compute_fid(*moments)), rel=1e-4)


def test_frechet_distance_of_fewer_images_than_features():
    """Against the definition with a float64 eigendecomposition, where S_a S_b is singular."""
    a, b = features(20, 64).double().numpy(), features(30, 64, 1.0, seed=1).double().numpy()
    s, t = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    by_hand = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * shared
    assert d.frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(by_hand, rel=1e-5)


def test_frechet_distance_of_two_gaussians_has_a_closed_form():
    a, b = torch.randn(200_000, 3), torch.randn(200_000, 3) * 2 + 1
    assert d.frechet_distance(a, b) == pytest.approx(3 * 1 + 3 * (1 + 4 - 2 * 2), rel=0.02)


def test_kernel_distance_equals_torch_fidelity_and_torchmetrics(two):
    a, b = (x[:150] for x in two)
    ours = d.kernel_distance(a, b)
    theirs = kid_features_to_metric(
        a.double(), b.double(), kid_subsets=1, kid_subset_size=150, kid_kernel="poly", verbose=False
    )
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    k = [d.polynomial_kernel(x.double(), y.double()) for x, y in ((a, a), (a, b), (b, b))]
    assert ours.value == pytest.approx(float(poly_mmd(a.double(), b.double())), rel=1e-4)
    assert torch.allclose(k[1], (a.double() @ b.double().T / a.shape[1] + 1) ** 3)
    assert ours.low < ours.value < ours.high


def test_kernel_distance_is_unbiased_at_any_n():
    """MMD^2 of two sets of 12 has the mean of two of 2000."""
    a, b = (features(6000, shift=shift, seed=i).view(500, 12, 8) for i, shift in enumerate((0, 0.4)))
    few = torch.tensor([d.kernel_distance(x, y, resamples=1).value for x, y in zip(a, b, strict=True)])
    many = d.kernel_distance(features(3000, seed=2), features(3000, shift=0.4, seed=3), resamples=10)
    assert abs(few.mean() - many.value) < 3 * few.std() / len(few) ** 0.5 + (many.high - many.low)


@pytest.mark.parametrize("n", [60, *(pytest.param(n, marks=pytest.mark.proof) for n in (20, 200))])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_covers_the_truth_in_95_percent_of_cases(n, shift):
    truth = (
        0.0 if shift == 0 else d.kernel_distance(features(4000, seed=-1), features(4000, shift=shift, seed=-2), 2).value
    )
    covered = 0
    for i in range(60):
        k = d.kernel_distance(features(n, seed=10 + i), features(n, shift=shift, seed=1000 + i), resamples=300)
        covered += k.low <= truth <= k.high
    assert covered >= 51, covered  # 57 expected; four standard deviations


def test_two_halves_of_one_set_have_no_distance():
    for seed in range(10):
        one = features(400, 32, seed=seed)
        k = d.kernel_distance(one[:200], one[200:])
        assert k.low < 0 < k.high


def test_precision_and_recall_equal_torch_fidelity(two):
    real, samples = two
    theirs = prc_features_to_metric(samples.double(), real.double(), prc_neighborhood=3, verbose=False)
    assert d.precision_recall(real, samples) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-4)


def test_density_and_coverage_follow_their_definition(two):
    """Naeem et al. 2020, equations 3 and 4, one image after the other."""
    real, samples = (x.double().numpy()[:80] for x in two)
    radius = [np.sort(np.linalg.norm(real - r, axis=1))[5] for r in real]
    inside = np.array([[np.linalg.norm(y - r) < q for y in samples] for r, q in zip(real, radius, strict=True)])
    density, coverage = d.density_coverage(torch.from_numpy(real), torch.from_numpy(samples))
    assert density == pytest.approx(inside.sum() / (5 * len(samples)))
    assert coverage == pytest.approx(inside.any(1).mean())


def test_lost_modes_cost_recall_and_coverage_and_noise_costs_precision_and_density():
    real = torch.cat([features(150), features(150, shift=12, seed=1)])
    half, noisy = features(300, seed=2), torch.cat([features(150, seed=2), features(150, shift=12, seed=3)])
    lost, _ = d.measure(real, half)
    assert lost["precision"] > 0.9
    assert lost["recall"] < 0.6
    assert lost["coverage"] < 0.6
    noise = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    noisy_samples, _ = d.measure(real, noisy + 6 * noise)
    assert noisy_samples["precision"] < 0.8
    assert noisy_samples["density"] < 0.5


def test_metrics_do_not_depend_on_the_order(two):
    a, b = two
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
    assert d.frechet_distance(a[order], b) == pytest.approx(d.frechet_distance(a, b), rel=1e-9)
    assert d.kernel_distance(a[order], b).value == pytest.approx(d.kernel_distance(a, b).value, rel=1e-9)
    assert d.precision_recall(a[order], b) == pytest.approx(d.precision_recall(a, b))


def test_metrics_that_need_more_images_are_left_out_and_say_why():
    few, notes = d.measure(features(40, 64), features(15, 64, seed=1))
    assert few == {}
    assert [note.split(" ")[0] for note in notes] == ["FD", "Precision,", "KD"]
    assert "more images than the 64 features (there are 40 real images and 15 samples)" in notes[0]
    enough, notes = d.measure(features(100, 64), features(90, 64, seed=1))
    assert notes == []
    assert list(enough) == ["fd", "precision", "recall", "density", "coverage", "kd", "kd_low", "kd_high"]
    assert enough["fd"] == pytest.approx(
        d.frechet_distance(d.subsample(features(100, 64), 90, 0), features(90, 64, seed=1))
    )


def test_samples_that_repeat_real_images_make_kd_too_low():
    real, new = features(100, 64), features(80, 64, seed=1)
    samples = torch.cat([new, real[:20] * (1 + 1e-7)])
    assert d.measure(real, new)[1] == []
    ((note,),) = d.measure(real, samples)[1:]
    assert note.startswith("KD is too low: 20 of 100 samples are identical to an image that they are compared with")


def test_subsets_of_sets_sorted_by_class_contain_every_class(monkeypatch):
    """Where a set is larger than what is compared."""
    real = torch.cat([features(100, 4), features(100, 4, shift=6, seed=1)])[torch.randperm(200)]
    samples = torch.cat([features(400, 4, seed=2), features(400, 4, shift=6, seed=3)])
    monkeypatch.setattr(d, "MAX_IMAGES", 150)
    (by_class, _), (mixed, _) = d.measure(real, samples), d.measure(real, samples[torch.randperm(800)])
    assert by_class["fd"] < 10
    assert mixed["fd"] < 10  # one class alone: above 30
    assert by_class["kd_low"] < mixed["kd"] < by_class["kd_high"]
    assert abs(by_class["coverage"] - mixed["coverage"]) < 0.15


@pytest.mark.parametrize("n", [20, 200])
def test_kernel_distance_of_a_set_to_itself_is_about_zero(n):
    """The two sets are not independent: KD = 2 / n (mean k(x, y) - mean k(x, x)); its interval contains it."""
    x = features(n, 64).double()
    k = d.polynomial_kernel(x, x)
    itself, others = k.diagonal().mean(), (k.sum() - k.trace()) / (n * (n - 1))
    found = d.kernel_distance(x, x)
    assert found.value == pytest.approx(float(2 / n * (others - itself)))
    assert found.low <= found.value <= found.high


def degraded(images: torch.Tensor, how: str, much: float) -> torch.Tensor:
    if how == "noise":
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + 255 * much * noise).clamp(0, 255).to(torch.uint8)
    if how == "blur":
        return gaussian_blur(images, 9, sigma=10 * much)
    return images[: int((1 - much) * len(images))].repeat(30, 1, 1, 1)[: len(images)]


DEGRADED = {"noise": (0.1, 0.4), "blur": (0.1, 0.3), "modes": (0.5, 0.9)}


@pytest.fixture(scope="module")
def two_halves():
    """(the bundled network, images of one half, its features, features of the other); each half sorted by class."""
    network = DenoiserEncoder("assets/features")
    images = open_set(DrawnSource("butterflies", 300), (3, 64, 64), "crop")
    order = images.columns["label"].argsort(kind="stable")
    real, others = (torch.from_numpy(images.images[order[k::2]]) for k in (0, 1))
    return network, others, extract(network, others), extract(network, real)


@pytest.mark.proof  # extracts features of 2,400 images with the bundled network
@pytest.mark.parametrize("how", DEGRADED)
def test_degrading_a_set_raises_its_distances(two_halves, how):
    """On images sorted by class, so that dropping images drops modes."""
    network, others, original, a = two_halves
    found = [d.measure(a, original)[0]]
    for much in DEGRADED[how]:
        found.append(d.measure(a, extract(network, degraded(others, how, much)))[0])
    kd, fd = [each["kd"] for each in found], [each["fd"] for each in found]
    assert kd == sorted(kd)
    assert fd == sorted(fd)
    assert found[0]["kd_low"] < 0 < found[0]["kd_high"]
    assert found[-1]["coverage"] < found[0]["coverage"]
