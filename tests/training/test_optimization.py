"""Optimizers beside torch's own, where theirs would differ: uneven gradients, another memory layout on resume."""

import shutil

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN

from chrysalis.training.optimization import AdamW8bit, adamw

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "lr_schedule=constant", "optimizer.lr=1e-2"]


def moved(make, steps: int) -> torch.Tensor:
    """How far in learning rates; row 0 always has gradient 1, row 1 once a small one and then none."""
    w = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = make([w], lr=5e-4, weight_decay=0.0)
    for step in range(steps):
        w.grad = torch.zeros_like(w)
        w.grad[0] = 1.0
        w.grad[1] = 1e-4 if step == 0 else 0.0
        optimizer.step()
    return w.detach().abs() / 5e-4


def test_a_small_second_moment_makes_no_large_step():
    whole, rounded = moved(adamw, 50), moved(AdamW8bit, 50)
    assert rounded.max() <= 1.02 * whole.max()
    torch.testing.assert_close(rounded[0], whole[0], rtol=0.02, atol=0.1)


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.proof
def test_a_run_continues_in_another_memory_layout(run, tmp_path):
    """Moments belong to the same weights whatever their strides; other convolutions round otherwise."""
    smooth = ["optimizer.eps=1", "optimizer.lr=0.1"]  # nearly plain gradient descent: rounding stays small
    assert run("train", *RUN, *smooth, "name=a", "trainer.max_steps=6") == 0
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "b")
    assert run("train", "resume=runs/a", "trainer.max_steps=8") == 0
    assert run("train", "resume=runs/b", "trainer.max_steps=8", "channels_last=true") == 0
    a, b = weights(tmp_path / "runs" / "a"), weights(tmp_path / "runs" / "b")
    far = max((w - b[name]).abs().max().item() for name, w in a.items())
    assert far < 1e-6


def test_a_window_larger_than_the_set_is_refused(run, capfd):
    assert run("train", *RUN, "data.batch_size=auto", "data.effective_batch=100") == 2
    assert "data.effective_batch=100 is larger than the training set" in capfd.readouterr().err
