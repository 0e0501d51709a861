"""optimizer=muon beside torch's own Muon and AdamW, the singular value decomposition, and a resumed run."""

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN

from chrysalis.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalized

LIKE = {"lr": 0.01, "weight_decay": 0.1}


def gradients(*shape: int, n: int = 4) -> list[torch.Tensor]:
    return list(torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)))


def stepped(make, start: torch.Tensor, grads: list[torch.Tensor], **settings) -> torch.Tensor:
    w = torch.nn.Parameter(start.clone())
    optimizer = make([w], **settings)
    for grad in grads:
        w.grad = grad.clone()
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_it_nears_the_orthogonal_factor(shape):
    matrix = gradients(*shape)[0]
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = u.T @ orthogonalized(matrix).double() @ v.T
    assert (found - found.diag().diag()).abs().max() < 1e-4  # the same singular vectors
    assert found.diag().min() > 0.65
    assert found.diag().max() < 1.25


def test_a_matrix_of_low_rank_has_the_factors_of_float64():
    matrix = gradients(48, 3)[0] @ gradients(3, 400)[0] + 1e-5 * gradients(48, 400)[0]
    a, b, c = COEFFICIENTS
    x = matrix.double() / matrix.double().norm()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(orthogonalized(matrix).double(), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_matrices_are_updated_as_by_torchs_muon(shape):
    start = gradients(*shape)[-1]
    ours = stepped(Muon, start, gradients(*shape), **LIKE)
    theirs = stepped(torch.optim.Muon, start, gradients(*shape), **LIKE, adjust_lr_fn="match_rms_adamw")
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # torch's iterations are in bfloat16


def test_a_convolution_is_a_matrix_of_its_output_channels():
    start, grads = gradients(6, 4, 3, 3)[-1], gradients(6, 4, 3, 3)
    whole = stepped(Muon, start, grads, **LIKE)
    flat = stepped(Muon, start.flatten(1), [grad.flatten(1) for grad in grads], **LIKE)
    torch.testing.assert_close(whole.flatten(1), flat, rtol=0, atol=0)


def test_vectors_are_updated_as_by_adamw():
    start, grads = gradients(30)[-1], gradients(30)
    ours = stepped(Muon, start, grads, **LIKE)
    torch.testing.assert_close(ours, stepped(torch.optim.AdamW, start, grads, **LIKE), rtol=0, atol=0)


def test_a_gradient_of_zero_changes_nothing():
    start = torch.ones(3, 5)
    assert torch.equal(stepped(Muon, start, [torch.zeros(3, 5)], lr=1.0, weight_decay=0), start)


def test_a_run_resumes_to_the_same_bits(run, tmp_path):
    steps = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "optimizer=muon", "lr_schedule=constant"]
    assert run("train", *steps, "name=whole", "trainer.max_steps=6") == 0
    assert run("train", *steps, "name=parts", "trainer.max_steps=3") == 0
    assert run("train", "resume=runs/parts", "trainer.max_steps=6") == 0
    last = [tmp_path / "runs" / name / "checkpoints" / "last.ckpt" for name in ("whole", "parts")]
    whole, parts = (torch.load(file, weights_only=True)["state_dict"] for file in last)
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


def test_a_step_leaves_the_precision_of_matrix_products():
    """TF32, with which the iteration diverges, is off within a step alone."""
    torch.set_float32_matmul_precision("high")
    try:
        stepped(Muon, *(gradients(8, 8)[-1], gradients(8, 8)))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
