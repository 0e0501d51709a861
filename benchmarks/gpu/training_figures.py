"""Figures of training: images per second, peak memory and its count, use of the matmul rate, and the plain loop."""

import copy
import functools
import io
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, redirect_stdout
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain_loop
from benchmarks.gpu import runs
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Figure
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import choose
from chrysalis.models import folder
from chrysalis.system import hardware, memory
from chrysalis.system.hardware import normalize_in_input_dtype
from chrysalis.training import memory_estimate


def matmul(bench: Bench) -> Iterator[Figure]:
    yield Figure("bf16 matrix products", matmul_tflops(bench), "TFLOP/s")


@functools.cache
def matmul_tflops(bench: Bench, repetitions: int = 20) -> float:
    """The median rate of products of two large bf16 matrices."""
    n, seconds = bench.sizes.matmul, []
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(repetitions + 3):
        plain_loop.wait_for(bench.device)
        began = time.perf_counter()
        a @ b
        plain_loop.wait_for(bench.device)
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / statistics.median(seconds[3:]) / 1e12


def tflop_an_image(unet: torch.nn.Module, pixels: int) -> float:
    """Count the operations of the forward and backward pass of one image, with fake tensors."""
    empty = copy.deepcopy(unet).to("meta")
    x, t = torch.empty(1, 3, pixels, pixels, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        empty(x, t).sample.sum().backward()
    return counter.get_total_flops() / 1e12


def train(bench: Bench) -> Iterator[Figure]:
    """Train the large model as train.py does on this device, not compiled."""
    yield from _training(bench, "large", compiled=False)


def train_compiled(bench: Bench) -> Iterator[Figure]:
    yield from _training(bench, "large", compiled=True)


def small_train(bench: Bench) -> Iterator[Figure]:
    for batch_size in bench.sizes.small_batches:
        yield from _training(bench, "small", compiled=False, batch_size=batch_size)


def _training(bench: Bench, which: str, compiled: bool, batch_size: int | None = None) -> Iterator[Figure]:
    s = bench.sizes
    pixels, steps = (s.large_pixels, s.large_steps) if which == "large" else (s.small_pixels, s.small_steps)
    model = folder.load(bench.large_folder if which == "large" else bench.small_folder)
    flop = tflop_an_image(model.unet, pixels)
    precision, _ = hardware.precision("auto", bench.device.type)
    batch_size = batch_size or fitting(bench, precision)
    began, peak = time.time(), runs.Peak()
    data = runs.images(bench, pixels, batch_size, steps)
    how = {"precision": precision, "compiled": compiled, "watch": [peak], "log_every_n_steps": 10}
    runs.forget_peak(bench.device)
    done = runs.fit(bench, model, data, steps, **how)
    speed, kind = done.clock.images_per_second(), f"batch {batch_size}, {precision}{', compiled' if compiled else ''}"
    bench.known[f"{which}{', compiled' if compiled else ''}"] = speed
    yield Figure(f"training at {pixels} px, {kind}", speed, "images/s")
    yield Figure("fraction of the measured matmul rate", speed * flop / matmul_tflops(bench))
    yield Figure("peak memory after the first step", peak.steady / 1e9, "GB")
    yield Figure("peak memory of the first step", peak.first / 1e9, "GB")
    if compiled:
        yield Figure("seconds to the first step, compiling", done.clock.first_step_at - began, "s")
    yield from _ratios(bench, which, speed)


def _ratios(bench: Bench, which: str, speed: float) -> Iterator[Figure]:
    for plain in ("plain loop", "plain loop in bf16"):
        if f"{plain}, {which}" in bench.known:
            yield Figure(f"faster than the {plain} by a factor of", speed / bench.known[f"{plain}, {which}"])


@functools.cache
def fitting(bench: Bench, precision: str) -> int:
    """The large model's micro-batch: large_batch, or the largest part of it that fits in memory."""
    s, free = bench.sizes, memory.free(bench.device)
    return memory_estimate.largest_batch(_cost(bench, precision), free, s.large_batch)


@functools.cache
def _cost(bench: Bench, precision: str) -> memory_estimate.Cost:
    model = folder.load(bench.large_folder)
    denoiser = Denoiser(model.unet, model.scheduler, choose(model.prediction))
    if bench.on_gpu and precision == "bf16-mixed":
        normalize_in_input_dtype(model.unet)  # as training does
    size = (bench.sizes.large_pixels,) * 2
    return memory_estimate.cost(denoiser, size, precision=hardware.AUTOCAST[precision], device_type=bench.device.type)


def memory_count(bench: Bench) -> Iterator[Figure]:
    """Compare the measured peak memory of a step of the large model with the count that docs/speed.md's table uses."""
    precision, _ = hardware.precision("auto", bench.device.type)
    pixels, batch_size = bench.sizes.large_pixels, min(4, fitting(bench, precision))
    counted = _cost(bench, precision).total(batch_size)
    named = f"batch {batch_size}, {precision}"
    yield Figure(f"counted in docs/speed.md's table, {named}", memory_estimate.MARGIN * counted / 1e9, "GB")
    data, peak = runs.images(bench, pixels, batch_size), runs.Peak()
    # on a CPU living tensors are counted, because the process uses memory for much else
    live = nullcontext() if bench.on_gpu else memory_estimate.LiveMemory()
    runs.forget_peak(bench.device)
    with live:
        runs.fit(bench, folder.load(bench.large_folder), data, 4, precision=precision, watch=[peak])
    measured = peak.steady if bench.on_gpu else live.peak
    yield Figure("measured, tensors", measured / 1e9, "GB")
    if bench.on_gpu:
        yield Figure("measured, reserved by torch", torch.cuda.max_memory_reserved() / 1e9, "GB")
        yield Figure("measured, first step with cuDNN's trials", peak.first / 1e9, "GB")
    yield Figure(f"measured / counted without its margin of {memory_estimate.MARGIN}", measured / counted)


def train_plain(bench: Bench) -> Iterator[Figure]:
    yield from plain_training(bench, "large", bf16=False)


def train_plain_bf16(bench: Bench) -> Iterator[Figure]:
    yield from plain_training(bench, "large", bf16=True)


def small_train_plain(bench: Bench) -> Iterator[Figure]:
    yield from plain_training(bench, "small", bf16=False)


def plain_training(bench: Bench, which: str, bf16: bool) -> Iterator[Figure]:
    """Train with the plain loop on the same images. bf16: run its UNet under autocast."""
    s, large = bench.sizes, which == "large"
    pixels = s.large_pixels if large else s.small_pixels
    words = {
        "model": bench.large_folder if large else bench.small_folder,
        "data": bench.images(pixels, max(s.images, 4 * s.plain_batch)),
    }
    words |= {"image-size": pixels, "batch-size": s.plain_batch, "steps": s.plain_steps, "accumulate": 2}
    done, name = plain(bench, "train", bf16, **words), f"plain loop{' in bf16' if bf16 else ''}"
    bench.known[f"{name}, {which}"] = speed = done["images_per_second"]
    yield Figure(f"{name} at {pixels} px, micro-batch {s.plain_batch}", speed, "images/s")
    yield Figure("peak memory", done.get("peak_gpu_mib", done["peak_rss_mib"]) * 2**20 / 1e9, "GB")
    for ours in (which, f"{which}, compiled"):
        if ours in bench.known:
            yield Figure(f"Chrysalis ({ours}) is faster by a factor of", bench.known[ours] / speed)


def plain(bench: Bench, what: str, bf16: bool = False, **words) -> dict:
    """Run benchmarks/plain_loop.py in this process; returns the record that it prints."""
    load_model, log = plain_loop.load_model, io.StringIO()

    def under_autocast(*arguments) -> tuple:
        unet, scheduler = load_model(*arguments)
        unet.forward = torch.autocast(bench.device.type, dtype=torch.bfloat16)(unet.forward)
        return unet, scheduler

    runs.forget_peak(bench.device)
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    with ExitStack() as patched:
        patched.enter_context(redirect_stdout(log))
        if bf16:
            patched.enter_context(mock.patch.object(plain_loop, "load_model", under_autocast))
        plain_loop.main([what, "--device", bench.device.type, *options])
    return json.loads(log.getvalue())
