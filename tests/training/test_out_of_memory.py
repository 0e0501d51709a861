"""Out of memory: the step is repeated in smaller parts with the same images, and the parts stay."""

import weakref
from dataclasses import replace

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, results

from chrysalis.denoiser import Denoiser
from chrysalis.system import memory

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "trainer.accumulate_grad_batches=2"]
RUN += ["trainer.max_steps=4", "lr_schedule=constant"]
RUN += ["optimizer.eps=1", "optimizer.lr=0.1"]  # nearly plain gradient descent: rounding stays small


class Tight(torch.autograd.Function):
    """Fails as an allocator does, in the forward or the backward pass of more than `room` images."""

    @staticmethod
    def forward(ctx, x, room, when):
        ctx.room, ctx.when, ctx.n = room, when, len(x)
        if when == "forward" and len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.when == "backward" and ctx.n > ctx.room:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return grad, None, None


@pytest.fixture
def tight(monkeypatch):
    """tight(room, when, after): from the `after`-th training forward pass on."""

    def arrange(room: int, when: str, after: int = 0) -> list[int]:
        plain, sizes = Denoiser.forward, []

        def forward(self, x_t, t, cond=None):
            out = plain(self, x_t, t, cond)
            if not self.training:
                return out
            sizes.append(len(x_t))
            return replace(out, out=Tight.apply(out.out, room, when)) if len(sizes) > after else out

        monkeypatch.setattr(Denoiser, "forward", forward)
        return sizes

    return arrange


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("after", "when"),
    [
        pytest.param(0, "forward", marks=pytest.mark.proof),
        (0, "backward"),
        (3, "forward"),
        pytest.param(3, "backward", marks=pytest.mark.proof),
    ],
)
def test_the_step_is_repeated_in_parts(run, trained, tmp_path, capfd, monkeypatch, tight, when, after):
    """after=3: in the second micro-batch of step 2, so that the first must be repeated too."""
    trained(*RUN, "name=roomy")
    with monkeypatch.context() as patched:
        del patched
        sizes = tight(2, when, after)
        assert run("train", *RUN, "name=tight") == 0
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    err = capfd.readouterr().err
    assert err.count("out of memory. From here on each micro-batch is split into 2 parts") == 1
    assert set(sizes[after + 2 :]) <= {2, 1}
    roomy, tightly = weights(tmp_path / "runs" / "roomy"), weights(tmp_path / "runs" / "tight")
    assert tightly["parts"] == 2
    for name, w in roomy["state_dict"].items():
        torch.testing.assert_close(w, tightly["state_dict"][name], rtol=1e-4, atol=1e-6)
    assert results(tmp_path / "runs" / "roomy")["val_loss"] == pytest.approx(
        results(tmp_path / "runs" / "tight")["val_loss"], rel=1e-5
    )


@pytest.mark.proof
def test_it_is_deterministic_from_then_on_and_after_a_resume(run, tmp_path, tight):
    sizes = tight(1, "backward")
    assert run("train", *RUN, "name=a") == 0
    assert run("train", *RUN, "name=b", "trainer.max_steps=2") == 0
    sizes.clear()
    assert run("train", "resume=runs/b", "trainer.max_steps=4") == 0
    assert set(sizes) == {1}
    a, b = weights(tmp_path / "runs" / "a"), weights(tmp_path / "runs" / "b")
    assert a["parts"] == b["parts"] == 4
    assert all(torch.equal(w, b["state_dict"][name]) for name, w in a["state_dict"].items())


def test_nothing_of_the_failed_pass_is_held_while_it_is_repeated(run, monkeypatch, tight):
    tight(2, "backward")
    held, plain, released = [], Denoiser.forward, memory.release

    def forward(self, x_t, t, cond=None):
        out = plain(self, x_t, t, cond)
        if self.training and out.out.grad_fn is not None:
            held.append(weakref.ref(out.out.grad_fn))
        return out

    def release(device):
        released(device)
        alive.append([node() is not None for node in held])
        held.clear()

    alive = []
    monkeypatch.setattr(Denoiser, "forward", forward)
    monkeypatch.setattr(memory, "release", release)
    assert run("train", *RUN, "name=a", "trainer.max_steps=1") == 0
    assert alive == [[False]]


def test_measuring_takes_fewer_at_once_where_they_do_not_fit():
    sizes = []

    def call(places: slice) -> torch.Tensor:
        sizes.append(places.stop - places.start)
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.arange(100)[places]

    assert memory.in_batches(call, 10, 8, torch.device("cpu")).tolist() == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        memory.in_batches(lambda places: call(slice(0, 9)), 10, 8, torch.device("cpu"))


def test_one_image_that_does_not_fit_is_refused(run, capfd, tight):
    tight(0, "forward")
    assert run("train", *RUN, "name=a") == 2
    assert "A single image at a time does not fit in memory" in capfd.readouterr().err


def test_an_optimizer_that_does_not_fit_is_refused(run, capfd, monkeypatch):
    def step(self, closure):
        closure()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert run("train", *RUN, "name=a") == 2
    err = capfd.readouterr().err
    assert "Out of memory: use a smaller data.image_size" in err
    assert "Traceback" not in err


def test_other_errors_are_raised(run, monkeypatch):
    def broken(self, x_t, t, cond=None):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Denoiser, "forward", broken)
    assert run("train", *RUN, "name=a") == 1


def test_the_messages_of_allocators():
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(cpu.value)
    assert memory.ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.ran_out(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert memory.ran_out(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not memory.ran_out(RuntimeError("shapes"))
