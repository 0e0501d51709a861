"""What makes training faster keeps the loss curve, to the bit or within rounding."""

import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN

from chrysalis.diffusion.mixing import lerp_
from chrysalis.system import hardware

pytestmark = pytest.mark.proof  # 50 steps each

STEPS = 50
ALIKE = [*TINY_MODEL, *TINY_RUN, "data.n=60", f"trainer.max_steps={STEPS}", "trainer.precision=32-true"]
ALIKE += [f"callbacks.{name}.every_n_train_steps={STEPS}" for name in ("validation", "samples", "checkpoint")]
COMPILER = shutil.which("g++") or shutil.which("clang++")
NEEDS_COMPILER = pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler")


@pytest.fixture
def curve(trained):
    """curve(name, *overrides) -> (loss of every step float64 [STEPS], final weights)."""

    def train(name: str, *overrides: str) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        folder = trained(*ALIKE, f"name={name}", *overrides)
        saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        steps, losses, _ = zip(*saved["callbacks"]["Curves"]["history"], strict=True)
        assert list(steps) == list(range(1, STEPS + 1))
        return np.array(losses), saved["state_dict"]

    return train


def assert_equal_to_the_bit(one, other):
    assert one[0].tolist() == other[0].tolist()
    assert all(torch.equal(weight, other[1][name]) for name, weight in one[1].items())


def test_the_cache_changes_no_bit(curve, monkeypatch, tmp_path):
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))
    cold = curve("cold")
    assert any((tmp_path / "cache").glob("16x16-*"))
    assert_equal_to_the_bit(cold, curve("warm"))


@pytest.mark.parametrize(
    "switch",
    ["data.on_device=true", "data.on_device=false", pytest.param("data.num_workers=1", marks=pytest.mark.proof)],
)
def test_the_place_of_the_images_changes_no_bit(curve, switch):
    assert_equal_to_the_bit(curve("plain"), curve("switched", switch))


def test_micro_batches_of_the_same_window_agree(curve):
    whole, _ = curve("whole", "data.batch_size=8")
    halves, _ = curve("halves", "data.batch_size=4", "trainer.accumulate_grad_batches=2")
    np.testing.assert_allclose(halves, whole, rtol=2e-4)


# float32 rounds each operation by 6e-8, bfloat16 by 4e-3; Adam, which divides by the gradient's own size, carries such
# differences on over 50 steps without letting them grow into another curve.
@pytest.mark.parametrize(
    ("switch", "rtol"),
    [
        ("channels_last=true", 1e-3),
        ("trainer.precision=bf16-mixed", 3e-2),
        pytest.param("compile=true", 1e-3, marks=NEEDS_COMPILER),
    ],
)
def test_rounding_is_all_that_changes(curve, switch, rtol):
    plain, _ = curve("plain")
    switched, _ = curve("switched", switch)
    np.testing.assert_allclose(switched, plain, rtol=rtol)
    assert switched.tolist() != plain.tolist(), "the switch did nothing"


def test_ema_in_one_call_equals_ema_per_tensor():
    """Against float64 by hand, 50 updates, warm-up included."""
    generator = torch.Generator().manual_seed(0)
    averages = [torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator)]
    by_hand = [a.double().clone() for a in averages]
    for step in range(1, STEPS + 1):
        weights = [torch.randn(a.shape, generator=generator) for a in averages]
        decay = min(0.999, (1 + step) / (10 + step))
        lerp_(averages, weights, 1 - decay)
        by_hand = [decay * a + (1 - decay) * w.double() for a, w in zip(by_hand, weights, strict=True)]
    for average, expected in zip(averages, by_hand, strict=True):
        torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=1e-6)


def test_cudnn_makes_no_trials_where_algorithms_must_be_deterministic():
    """cuDNN's benchmark would undo trainer.deterministic=true. Flags alone: no GPU is needed."""
    was = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    try:
        hardware.tune(torch.nn.Conv2d(1, 1, 1), "cuda")
        assert torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        hardware.tune(torch.nn.Conv2d(1, 1, 1), "cuda")
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = was[0]
        torch.set_float32_matmul_precision(was[1])
