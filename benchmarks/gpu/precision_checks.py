"""Checks: faster settings leave the loss of every step unchanged, within rounding or to the bit."""

import functools
import math
from collections.abc import Iterator

import torch

from benchmarks.gpu import runs
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Figure, require
from chrysalis.data import loaders

# Largest relative difference of a step's loss. float32 rounds by 6e-8, the TF32 of a GPU's convolutions by 5e-4, bf16
# by 4e-3; Adam divides by the gradient's size and so carries such differences from step to step.
LIMITS = {
    "cpu": {"bf16-mixed": 3e-2, "16-mixed": 1e-2, "channels_last": 1e-3, "compile": 1e-3},
    "cuda": {"bf16-mixed": 5e-2, "16-mixed": 3e-2, "channels_last": 2e-2, "compile": 2e-2},
}
OVERFLOWING = 2.0**30  # a loss scale whose first gradients are infinite in float16


@functools.cache
def trained(bench: Bench, precision: str = "32-true", channels_last: bool | str = False, compiled: bool = False):
    """Train the checks' model; the result has the loss of each step."""
    s = bench.sizes
    how = {"precision": precision, "channels_last": channels_last, "compiled": compiled}
    return runs.fit(bench, bench.tiny(), runs.images(bench, s.pixels, s.batch), s.steps, **how)


def compare_losses(bench: Bench, setting: str, other: runs.Fit, differs: bool = True) -> Figure:
    """Measure the largest relative difference to the float32 losses; raises AssertionError beyond the limit.

    differs: whether the setting must change a bit, because otherwise it had no effect.
    """
    plain, other, limit = trained(bench).losses, other.losses, LIMITS[bench.device.type][setting]
    require(len(plain) == len(other) == bench.sizes.steps, f"{len(other)} losses of {bench.sizes.steps} steps")
    largest = max(abs(b - a) / a for a, b in zip(plain, other, strict=True))
    require(largest <= limit, f"losses differ from float32 by up to {largest:.2g}, more than {limit:g}")
    require(plain != other or not differs, f"{setting} changed nothing")
    return Figure(f"largest relative difference of {len(plain)} losses", largest)


def bf16(bench: Bench) -> Iterator[Figure]:
    yield compare_losses(bench, "bf16-mixed", trained(bench, "bf16-mixed", "auto"))


def channels_last(bench: Bench) -> Iterator[Figure]:
    done = trained(bench, channels_last=True)
    yield compare_losses(bench, "channels_last", done, differs=False)  # cuDNN may choose the same kernels
    weight = done.module.denoiser.unet.conv_in.weight
    kept = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    require(kept, f"the weights are not in channels_last: strides {weight.stride()}")


def fp16(bench: Bench) -> Iterator[Figure]:
    yield compare_losses(bench, "16-mixed", trained(bench, "16-mixed", "auto"))


def scaler(bench: Bench) -> Iterator[Figure]:
    """Start from far too large a loss scale: every overflow skips an update and halves the scale, until it fits."""
    s, steps = bench.sizes, 20
    data = runs.images(bench, s.pixels, s.batch)
    done = runs.fit(bench, bench.tiny(), data, steps, precision="16-mixed", scale=OVERFLOWING)
    skipped = round(math.log2(OVERFLOWING / done.scaler.get_scale()))
    yield Figure(f"updates of {steps} skipped until the loss scale fits", skipped)
    require(0 < skipped < steps, f"{skipped} of {steps} updates were skipped")
    counted = done.optimizer_steps
    require(counted == {steps - skipped}, f"the optimizer counts {counted} updates, not {steps - skipped}")
    require(all(w.isfinite().all() for w in done.weights.values()), "weights are not finite")
    require(not done.nonfinite.skipped_steps, "an overflow of the scaled gradients was taken for a non-finite loss")


def compiled(bench: Bench) -> Iterator[Figure]:
    yield compare_losses(bench, "compile", trained(bench, compiled=True))


def device_data(bench: Bench) -> Iterator[Figure]:
    """Compare batches of one epoch gathered on the device and on the host, and the weights after training on either."""
    s = bench.sizes
    data = runs.images(bench, s.pixels, s.batch)
    data.setup()
    order = loaders.Order(data.train_rows, s.batch, seed=0)
    sides = [loaders.loader(loaders.BatchDataset(data.image_set, True, on), order) for on in ("cpu", bench.device)]
    for here, there in zip(*sides, strict=True):
        require(there.image.device.type == bench.device.type, f"batches are on {there.image.device}")
        same = all(
            torch.equal(getattr(here, name), getattr(there, name).cpu()) for name in ("image", "row", "key", "u")
        )
        require(same, "a batch from the device differs from that of the host")
    yield Figure("batches equal to the bit", len(order))
    ends = []
    for on_device in (False, True):
        held = runs.images(bench, s.pixels, s.batch, on_device=on_device)
        ends.append(runs.fit(bench, bench.tiny(), held, 6, precision="32-true", deterministic=True).weights)
    require(all(torch.equal(w, ends[1][name]) for name, w in ends[0].items()), "weights after 6 steps differ")
