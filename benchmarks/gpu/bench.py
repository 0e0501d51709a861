"""Shared by the parts: the device, suitable sizes, synthetic images, models with random weights."""

import functools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from benchmarks.gpu.parts import Part
from benchmarks.memory import CELEBAHQ
from chrysalis.models import scratch
from chrysalis.models.model import Model
from chrysalis.system import memory
from chrysalis.system.files import REPOSITORY


@dataclass(frozen=True)
class Sizes:
    """The sizes of the parts on a device.

    Checks: channels and pixels of a UNet with random weights, images of the dataset, micro-batch, optimizer steps.
    Figures: large_* and small_* for the large and the small model, plain_* for the plain loop.
    """

    channels: tuple[int, ...]
    pixels: int
    images: int
    batch: int
    steps: int
    oom_pixels: int  # for the part that runs out of memory
    oom_batch: int
    large_pixels: int
    large_batch: int
    large_steps: int
    plain_batch: int
    plain_steps: int  # micro-batches, two an optimizer step
    samples: int
    sample_steps: int
    small_pixels: int
    small_batches: tuple[int, ...]
    small_steps: int
    matmul: int


SIZES = {
    "cuda": Sizes(
        channels=(32, 64),
        pixels=32,
        images=64,
        batch=8,
        steps=30,
        oom_pixels=128,
        oom_batch=16,
        large_pixels=256,
        large_batch=8,
        large_steps=23,
        plain_batch=4,
        plain_steps=28,
        samples=16,
        sample_steps=15,
        small_pixels=64,
        small_batches=(8, 64),
        small_steps=43,
        matmul=8192,
    ),
    "cpu": Sizes(
        channels=(8, 16),
        pixels=16,
        images=16,
        batch=4,
        steps=5,
        oom_pixels=16,
        oom_batch=4,
        large_pixels=16,
        large_batch=4,
        large_steps=5,
        plain_batch=2,
        plain_steps=6,
        samples=2,
        sample_steps=2,
        small_pixels=16,
        small_batches=(4,),
        small_steps=5,
        matmul=128,
    ),
}
WARMUP = 3  # optimizer steps before the clock starts


@dataclass(eq=False)
class Bench:
    """scratch: a folder for all files, removed afterwards. known: figures that later parts compare with."""

    device: torch.device
    scratch: Path
    known: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.device.type]

    def needs(self, part: Part) -> float:
        """Approximate seconds of a part; few at the small sizes of a CPU."""
        return part.needs if self.on_gpu else 1.0

    def limit(self, part: Part) -> float:
        """Seconds after which a part is cut off: a slower GPU may take three times as long."""
        return max(30.0, 3 * part.needs) if self.on_gpu else 600.0

    @functools.cache  # noqa: B019 (one bench per process)
    def images(self, pixels: int, n: int) -> Path:
        """Write a folder of n synthetic JPEG files: smooth random colours."""
        made, rng = self.scratch / f"images-{pixels}-{n}", np.random.default_rng(0)
        made.mkdir()
        for i in range(n):
            colours = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            colours.resize((pixels, pixels), Image.Resampling.BICUBIC).save(made / f"{i:05d}.jpg", quality=90)
        return made

    def tiny(self) -> Model:
        """A new UNet of the checks' size, always with the same random weights."""
        torch.manual_seed(0)
        return scratch.build(self.sizes.pixels, self.sizes.channels)

    @functools.cached_property
    def tiny_folder(self) -> str:
        return self._saved("tiny", self.tiny().unet)

    @functools.cached_property
    def large_folder(self) -> str:
        """google/ddpm-celebahq-256's UNet with random weights; on a CPU the tiny one instead."""
        if not self.on_gpu:
            return self.tiny_folder
        torch.manual_seed(0)
        return self._saved("large", UNet2DModel(**CELEBAHQ))

    @property
    def small_folder(self) -> str:
        return str(REPOSITORY / "assets/moths-64") if self.on_gpu else self.tiny_folder

    def _saved(self, name: str, unet: UNet2DModel) -> str:
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(self.scratch / name)
        return str(self.scratch / name)

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Restore torch's settings, the environment and the generators after a part, and release its memory."""
        settings = _settings()
        here, environment, generators = Path.cwd(), dict(os.environ), (random.getstate(), np.random.get_state())  # noqa: NPY002
        os.chdir(self.scratch)
        memory.release(self.device)
        try:
            yield
        finally:
            os.chdir(here)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            random.setstate(generators[0])
            np.random.set_state(generators[1])  # noqa: NPY002 (the generator that seed_everything seeds)
            _restore(settings)
            memory.release(self.device)


def _settings() -> tuple:
    cudnn = torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.deterministic, deterministic


def _restore(settings: tuple) -> None:
    precision, benchmark, cudnn_deterministic, (deterministic, warn_only) = settings
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, cudnn_deterministic
