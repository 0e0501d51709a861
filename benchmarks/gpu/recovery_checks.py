"""Checks: a step that does not fit in memory, and a non-finite gradient or loss."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest import mock

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.gpu import runs
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Figure, require
from chrysalis.denoiser import Denoiser
from chrysalis.models import folder
from chrysalis.system import memory
from chrysalis.system.errors import UserError
from chrysalis.training.optimization import adamw

# nearly plain gradient descent: rounding stays small
NEARLY_SGD = functools.partial(adamw, lr=0.1, eps=1.0)
LIMITS = {"cpu": 1e-4, "cuda": 2e-2}  # relative distance between two updates; TF32 on a GPU
MEMORY_FRACTION = 0.7  # of the memory that the unlimited run used in its second step
POISONED, STEPS = 2, 4


def out_of_memory(bench: Bench) -> Iterator[Figure]:
    """Train the same two steps with and without a memory limit: micro-batches are split, and the update is the same."""
    s = bench.sizes
    size = {"pixels": s.oom_pixels, "batch_size": s.oom_batch}

    def trained(*watch: Callback) -> tuple[int, torch.Tensor]:
        """(parts per micro-batch, change of the weights)"""
        model = folder.load(bench.small_folder) if bench.on_gpu else bench.tiny()
        before = _flat(model.unet)
        done = runs.fit(bench, model, runs.images(bench, **size), 2, optimizer=NEARLY_SGD, watch=watch)
        return done.module.microbatching.parts, _flat(done.module.denoiser.unet) - before

    memory.release(bench.device)
    parts, unlimited = trained(peak := runs.Peak())
    require(parts == 1, f"without a limit, micro-batches were split into {parts} parts")
    with _limited(bench, peak.steady):
        parts, limited = trained()
    require(parts > 1, "nothing ran out of memory")
    yield Figure(f"parts of a micro-batch of {s.oom_batch}", parts)
    distance = float((limited - unlimited).norm() / unlimited.norm())
    yield Figure("relative distance of the update", distance)
    limit = LIMITS[bench.device.type]
    require(distance <= limit, f"the update differs by {distance:.2g}, more than {limit:g}")


def _flat(unet: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in unet.parameters()])


@contextmanager
def _limited(bench: Bench, unlimited: int) -> Iterator[None]:
    """Limit memory to a fraction of `unlimited` bytes; on a CPU, to half a micro-batch."""
    memory.release(bench.device)
    if bench.on_gpu:
        whole = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(MEMORY_FRACTION * unlimited / whole)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    original, most = Denoiser.forward, bench.sizes.oom_batch // 2

    def forward(self, x_t, t, cond=None):
        if self.training and len(x_t) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, x_t, t, cond)

    with mock.patch.object(Denoiser, "forward", forward):
        yield


class Poison(Callback):
    """Makes one weight's gradient NaN in one step."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        def hook(gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("nan") if trainer.global_step + 1 == POISONED else gradient

        _, weight = module.trainable()[-1]
        self._hook = weight.register_hook(hook)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._hook.remove()


def nonfinite(bench: Bench) -> Iterator[Figure]:
    """Check that under the fused optimizer alone a NaN gradient skips the update, or stops the run before it."""
    precision = "bf16-mixed" if bench.on_gpu else "32-true"
    done, after = _poisoned(bench, precision, "skip")
    skipped = done.nonfinite.skipped_steps
    require(skipped == [POISONED], f"skipped steps: {skipped}, not [{POISONED}]")
    _require_skipped(done, after)
    yield Figure("skipped updates", 1)
    try:
        done, after = _poisoned(bench, precision, "stop")
    except Stopped as stopped:
        require("gradient is not" in str(stopped), f"the run stopped for another reason: {stopped}")
        require(_same(stopped.after[0], stopped.after[-1]), "the update was made before the run stopped")
        require(_same(stopped.after[0], dict(stopped.module.trainable())), "weights changed as the run stopped")
        yield Figure("updates before it stopped", 1)
        return
    raise AssertionError("a NaN gradient did not stop the run")


def nonfinite_fp16(bench: Bench) -> Iterator[Figure]:
    """Check that a scaler skips non-finite gradients by itself, and that non-finite losses are detected beside it."""
    scale = 2.0**8
    done, after = _poisoned(bench, "16-mixed", "skip", scale)
    _require_skipped(done, after)
    require(done.nonfinite.skipped_steps == [], "an update that the scaler skipped was taken for a non-finite loss")
    require(done.scaler.get_scale() == scale / 2, f"the loss scale went from {scale:g} to {done.scaler.get_scale():g}")
    yield Figure("skipped updates, gradient", 1)
    original, steps = Denoiser.loss_at, []

    def loss_at(self, x0, t, eps, cond=None):
        steps.append(len(steps) + 1)
        return original(self, x0 * float("nan") if steps[-1] == POISONED else x0, t, eps, cond)

    with mock.patch.object(Denoiser, "loss_at", loss_at):
        done, after = _poisoned(bench, "16-mixed", "skip", scale, poison=False)
    _require_skipped(done, after)
    skipped = done.nonfinite.skipped_steps
    require(skipped == [POISONED], f"skipped steps: {skipped}, not [{POISONED}]")
    yield Figure("skipped updates, loss", 1)


class Stopped(Exception):
    """The error that stopped a run, with the weights after each of its steps."""

    def __init__(self, error: UserError, module: LightningModule, after: list[dict[str, torch.Tensor]]):
        super().__init__(str(error))
        self.module, self.after = module, after


def _poisoned(bench: Bench, precision: str, action: str, scale: float | None = None, poison: bool = True):
    """Train with a NaN gradient; returns (the finished run, the weights after each of its steps)."""
    s, snapshots = bench.sizes, runs.Snapshots()
    data = runs.images(bench, s.pixels, s.batch)
    watch = [snapshots, *([Poison()] if poison else [])]
    how = {"precision": precision, "action": action, "scale": scale, "watch": watch}
    run = runs.prepared(bench, bench.tiny(), data, STEPS, **how)
    require(
        bool(run.module.make_optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["fused"]),
        "the optimizer is not fused",
    )
    try:
        return run.run(data), snapshots.weights
    except UserError as error:
        raise Stopped(error, run.module, snapshots.weights) from error


def _require_skipped(done: runs.Fit, after: list[dict[str, torch.Tensor]]) -> None:
    """Require that the update of the poisoned step alone was skipped."""
    changed = [not _same(a, b) for a, b in pairwise(after)]
    expected = [step != POISONED for step in range(2, STEPS + 1)]
    require(changed == expected, f"weights changed in steps 2 to {STEPS}: {changed}, not {expected}")
    require(done.optimizer_steps == {STEPS - 1}, f"the optimizer counts {done.optimizer_steps} updates")


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value.cpu(), b[name].cpu()) for name, value in a.items())
