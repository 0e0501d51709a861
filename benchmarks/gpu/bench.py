"""What the parts share: the device, sizes that suit it, synthetic images, models of random weights."""

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
from chrysalis.models.location import BUNDLED
from chrysalis.models.model import Model
from chrysalis.system import memory
from chrysalis.system.files import REPOSITORY


@dataclass(frozen=True)
class Sizes:
    """How large the parts are on a device.

    Of the checks: channels and pixels of a UNet of random weights, images of the set, micro-batch, optimizer steps.
    large_*: of the figures of the large model, small_*: of the small one; plain_*: of the plain loop beside them.
    """

    channels: tuple[int, ...]
    pixels: int
    images: int
    batch: int
    steps: int
    roomy_pixels: int  # of the part that runs out of memory
    roomy_batch: int
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
        roomy_pixels=128,
        roomy_batch=16,
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
        roomy_pixels=16,
        roomy_batch=4,
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
    """scratch: a folder for all that is written, removed afterwards. known: figures that later parts compare with."""

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
        """Seconds that a part takes about; at the small sizes of a CPU, a few."""
        return part.needs if self.on_gpu else 1.0

    def limit(self, part: Part) -> float:
        """Seconds after which a part is cut off: on a slower GPU it may take three times as long."""
        return max(30.0, 3 * part.needs) if self.on_gpu else 600.0

    @functools.cache  # noqa: B019 (there is one bench in a process)
    def images(self, pixels: int, n: int) -> Path:
        """A folder of n synthetic JPEG files: smooth random colours."""
        made, rng = self.scratch / f"images-{pixels}-{n}", np.random.default_rng(0)
        made.mkdir()
        for i in range(n):
            colours = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            colours.resize((pixels, pixels), Image.Resampling.BICUBIC).save(made / f"{i:05d}.jpg", quality=90)
        return made

    def tiny(self) -> Model:
        """A new UNet of the checks' size, whose weights are always the same random ones."""
        torch.manual_seed(0)
        return scratch.build(self.sizes.pixels, self.sizes.channels)

    @functools.cached_property
    def tiny_folder(self) -> str:
        return self._saved("tiny", self.tiny().unet)

    @functools.cached_property
    def large_folder(self) -> str:
        """google/ddpm-celebahq-256's UNet with random weights; on a CPU the tiny one stands for it."""
        if not self.on_gpu:
            return self.tiny_folder
        torch.manual_seed(0)
        return self._saved("large", UNet2DModel(**CELEBAHQ))

    @property
    def small_folder(self) -> str:
        return str(REPOSITORY / BUNDLED) if self.on_gpu else self.tiny_folder

    def _saved(self, name: str, unet: UNet2DModel) -> str:
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(self.scratch / name)
        return str(self.scratch / name)

    @contextmanager
    def base_model(self) -> Iterator[None]:
        """Inside, torch is as a process finds it, whatever a part sets; memory is given back afterwards."""
        was = _settings()
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
            np.random.set_state(generators[1])  # noqa: NPY002 (seed_everything seeds this one)
            _restore(was)
            memory.release(self.device)


def _settings() -> tuple:
    cudnn = torch.backends.cudnn
    exact = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.deterministic, exact


def _restore(settings: tuple) -> None:
    precision, benchmark, deterministic, (exact, warn_only) = settings
    torch.use_deterministic_algorithms(exact, warn_only=warn_only)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
