import numpy as np
import torch

from chrysalis.diffusion import seeds


def test_noise_depends_on_its_own_seed_alone():
    together = seeds.normal([3, 7, 11], (3, 8, 8))
    assert torch.equal(seeds.normal([7], (3, 8, 8))[0], together[1])
    alone = torch.empty(3, 8, 8).normal_(generator=torch.Generator().manual_seed(7))
    assert torch.equal(alone, together[1])


def test_keys_differ_in_every_part():
    keys = {seeds.key(s, word, p, row) for s in range(5) for word in ("a", "b") for p in range(5) for row in range(50)}
    assert len(keys) == 5 * 2 * 5 * 50
    assert all(0 <= k < 2**63 for k in keys)


def test_timesteps_are_uniform_and_neighbours_are_spread():
    u = seeds.low_discrepancy(10_000, 0, "timesteps", 3).numpy()
    assert ((u >= 0) & (u < 1)).all()
    counts = np.histogram(u, 20, (0, 1))[0]
    assert abs(counts - 500).max() <= 5  # independent draws would scatter by about 22
    batch = np.sort(u[40:48])
    assert np.diff(batch).min() > 0.5 / 8  # no two of eight neighbours fall close together


def test_the_start_of_the_timesteps_is_itself_uniform():
    starts = [seeds.low_discrepancy(1, seed, "timesteps", 0).item() for seed in range(4000)]
    counts = np.histogram(starts, 10, (0, 1))[0]
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < 27.9  # 99.9 % point with 9 degrees of freedom


def test_permutations_are_reproducible_and_change_with_the_epoch():
    first, second = seeds.permutation(100, 0, "order", 0), seeds.permutation(100, 0, "order", 1)
    assert sorted(first.tolist()) == list(range(100))
    assert not torch.equal(first, second)
    assert torch.equal(first, seeds.permutation(100, 0, "order", 0))
