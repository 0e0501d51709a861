"""From a batch to its condition: values, dropout, nulls, shuffling."""

import numpy as np
import torch
from conftest import tiny_unet
from diffusers import DDPMScheduler
from tiny_models import ALL, attached_conditioner, conditional_batch

from chrysalis.conditions import batches
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective


def test_a_batch_becomes_its_condition():
    conditioner, batch = attached_conditioner(tiny_unet(), ALL), conditional_batch()
    cond = batches.from_batch(batch, conditioner)
    assert torch.equal(cond["label"], batch.columns["label"])
    assert cond["text"][:3] == ("a red moth", "", "blue")
    assert set(cond["mask"].unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(cond["image"], batch.columns["conditioning_image"] / 127.5 - 1)
    assert batches.rows(cond, [0, 1])["text"] + batches.rows(cond, [2])["text"] == cond["text"][:3]


def test_dropout_frequencies():
    keys = [seeds.key("k", i) for i in range(20_000)]
    alone = np.array(batches.dropout(["label"], keys, 0.1)["label"])
    assert abs(alone.mean() - 0.1) < 0.01
    gone = batches.dropout(["label", "mask"], keys, 0.1)
    label, mask = (np.array(gone[name]) for name in ("label", "mask"))
    assert abs(label.mean() - 0.19) < 0.01  # 0.1 + 0.9 * 0.1
    assert abs((label & mask).mean() - 0.109) < 0.01  # 0.1 + 0.9 * 0.1^2
    assert batches.dropout(["label", "mask"], keys[5:6], 0.1)["mask"] == [gone["mask"][5]]  # a function of the key
    assert not any(batches.dropout(["label"], keys[:50], 0.0)["label"])


def test_dropout_trains_the_null():
    """The loss with dropout 1 is that under the null, and with 0 that under the full condition."""
    unet = tiny_unet().eval()
    conditioner, batch = attached_conditioner(unet, ALL, seed=5), conditional_batch(6)
    always, never = (Denoiser(unet, DDPMScheduler(), objective("epsilon"), conditioner, p).eval() for p in (1.0, 0.0))
    x0, t = batch.image / 127.5 - 1, (batch.u * 1000).long()
    eps = seeds.normal(batch.key.tolist(), (3, 16, 16))
    with torch.no_grad():
        nothing = always.loss_at(x0, t, eps).per_sample
        all_ = never.loss_at(x0, t, eps, batches.from_batch(batch, conditioner)).per_sample
        torch.testing.assert_close(always.loss(batch).per_sample, nothing)
        torch.testing.assert_close(never.loss(batch).per_sample, all_)
    assert (nothing - all_).abs().min() > 1e-6


def test_shuffled_gives_each_image_the_value_of_another():
    values, keys = ["a"] * 5 + ["b"] * 4 + ["c"] * 3, list(range(12))
    order = batches.shuffled(values, keys)
    assert sorted(order) == list(range(12))
    assert all(values[i] != values[j] for i, j in enumerate(order))
    back = batches.shuffled(values[::-1], keys[::-1])  # the same, in whatever order the images come
    assert [11 - j for j in back[::-1]] == order
    assert batches.shuffled(["a"], [1]) == [0]
