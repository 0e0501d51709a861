"""Figures of sampling: images per second as in sample.py, compiled or not, and of the plain loop."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Figure
from benchmarks.gpu.training_figures import plain
from chrysalis.data import pixels
from chrysalis.diffusion import seeds
from chrysalis.models import folder
from chrysalis.sampling import precision, schedulers
from chrysalis.sampling.guidance.model_pairs import denoiser_of
from chrysalis.sampling.loop import sample
from chrysalis.system import hardware

SCHEDULER, REPETITIONS, PLAIN_STEPS = "deis", 3, 40


def sampler(bench: Bench, pretrained: str, compiled: bool, channels_last: bool = False) -> Callable[[], float]:
    """Build a function that generates bench.sizes.samples images as sample.py does and returns images per second.

    The precision is automatic. channels_last: also use that layout, which sample.py does not.
    """
    model, s = folder.load(pretrained), bench.sizes
    denoiser = denoiser_of(model).to(bench.device)
    if channels_last:
        denoiser.unet.to(memory_format=torch.channels_last)
    precision.apply(denoiser, {}, hardware.precision("auto", bench.device.type)[0], compiled)

    def generate() -> float:
        began = time.perf_counter()
        scheduler = schedulers.build(model.scheduler, SCHEDULER)
        x = sample(denoiser, scheduler, s.sample_steps, seeds.generators(range(s.samples)), model.size())
        pixels.to_uint8(x).cpu()
        return s.samples / (time.perf_counter() - began)

    return generate


def images_per_second(generate: Callable[[], float]) -> float:
    """The median, after one generation that is not counted."""
    generate()
    return statistics.median(generate() for _ in range(REPETITIONS))


def large(bench: Bench) -> Iterator[Figure]:
    yield _figure(bench, bench.large_folder, compiled=False)
    yield _figure(bench, bench.large_folder, compiled=False, channels_last=True)


def large_compiled(bench: Bench) -> Iterator[Figure]:
    yield _figure(bench, bench.large_folder, compiled=True)


def small(bench: Bench) -> Iterator[Figure]:
    yield _figure(bench, bench.small_folder, compiled=False)


def _figure(bench: Bench, pretrained: str, compiled: bool, channels_last: bool = False) -> Figure:
    s = bench.sizes
    how = f"{s.samples} at a time, {SCHEDULER} in {s.sample_steps} steps{', compiled' if compiled else ''}"
    how += ", channels_last" if channels_last else ""
    return Figure(how, images_per_second(sampler(bench, pretrained, compiled, channels_last)), "images/s")


def large_plain(bench: Bench) -> Iterator[Figure]:
    n, steps = (bench.sizes.samples // 2, PLAIN_STEPS) if bench.on_gpu else (1, 2)
    done = plain(bench, "sample", model=bench.large_folder, n=n, **{"ddim-steps": steps})
    yield Figure(f"plain loop, {n} at a time, ddim in {steps} steps", done["images_per_second"], "images/s")
