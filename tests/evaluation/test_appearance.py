"""Contrast, color cast and sharpness, as numpy computes them from whole images at once."""

import numpy as np
import pytest
import torch

from chrysalis.data.pixels import as_rgb
from chrysalis.evaluation.appearance import appearance


def images(n=24, seed=0, channels=3, size=16):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 200, (n, channels, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
    return torch.from_numpy((coarse + rng.uniform(0, 55, (n, channels, size, size))).astype(np.uint8))


def pyramid(x):
    x, levels = x.astype(np.float64), []
    for _ in range(2):
        n, c, h, w = x.shape
        small = x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        levels.append(x - small.repeat(2, 2).repeat(2, 3))
        x = small
    return [*levels, x]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_statistics_are_numpys_in_any_batches(channels):
    x = images(channels=channels)
    measured, x = appearance(x.split(7)), as_rgb(x)  # on white, where it is transparent
    np.testing.assert_allclose(measured.mean, x.numpy().astype(float).mean((0, 2, 3)))
    np.testing.assert_allclose(measured.deviation, x.numpy().astype(float).std())
    np.testing.assert_allclose(measured.energy, [level.std() for level in pyramid(x.numpy())])


def test_equal_sets_compare_as_equal():
    a = appearance([images()])
    assert a.compare(a) == pytest.approx(
        {"contrast": 1, "color_cast": 0, "sharpness_fine": 1, "sharpness_medium": 1, "sharpness_coarse": 1}
    )


def test_each_flaw_shows_in_its_own_figure():
    real = images()
    weak = (real.float() - 128).mul(0.5).add(128).round().to(torch.uint8)
    assert appearance([weak]).compare(appearance([real]))["contrast"] == pytest.approx(0.5, abs=0.01)
    reddish = real.clamp(max=225)
    red = reddish.clone()
    red[:, 0] += 30
    assert appearance([red]).compare(appearance([reddish]))["color_cast"] == pytest.approx(30)
    smooth = torch.nn.functional.avg_pool2d(real.float(), 2).round().to(torch.uint8)
    smooth = smooth.repeat_interleave(2, -1).repeat_interleave(2, -2)
    flaws = appearance([smooth]).compare(appearance([real]))
    assert flaws["sharpness_fine"] == 0
    assert flaws["sharpness_coarse"] == pytest.approx(1, abs=0.01)


def test_odd_sides_and_uniform_images():
    odd = images(size=20)[..., :19, :17]
    assert appearance([odd]).compare(appearance([odd]))["sharpness_medium"] == pytest.approx(1)
    flat = torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)
    assert appearance([flat]).compare(appearance([flat]))["contrast"] == 0
