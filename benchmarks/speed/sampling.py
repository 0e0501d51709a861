"""Images per second at equal distance: the plain loop's 40 DDIM steps, and the fastest settings of ours.

Distance: root mean square over the pixels, 0 to 255, to 1000 DDIM steps in float32 from the same noise.
"""

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image

from benchmarks import plain_loop
from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench
from chrysalis.data import pixels
from chrysalis.data.source import content_hash
from chrysalis.diffusion import seeds
from chrysalis.models import folder, location
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.model_pairs import denoiser_of
from chrysalis.sampling.loop import sample
from chrysalis.sampling.precision import apply
from chrysalis.system import hardware
from chrysalis.system.files import REPOSITORY, written

SCHEDULER, STEPS = "deis", 15
PLAIN_STEPS, LIMIT_STEPS = 40, 1000
N, REPETITIONS, BUDGET, TARGET = 8, 3, 60, 3.0


class Sampler:
    """Our side: a model in the automatic precision of the device."""

    def __init__(self, pretrained: str, device: str, precision: str = "auto"):
        self.model, self.device = folder.load(pretrained), device
        self.denoiser = denoiser_of(self.model).to(device)
        self.precision, _ = hardware.precision(precision, device)
        if precision == "auto":
            hardware.tune(self.denoiser.unet, device)
        apply(self.denoiser, {}, self.precision, False)

    def sample(self, n: int, scheduler: str, steps: int, **settings) -> torch.Tensor:
        """Generate uint8 [n, 3, H, W], image i from seed i alone."""
        built = schedulers.build(self.model.scheduler, scheduler, **settings)
        return pixels.to_uint8(sample(self.denoiser, built, steps, seeds.generators(range(n)), self.model.size())).cpu()


def sampling(bench: Bench, scheduler: str = SCHEDULER, steps: int = STEPS) -> Row:
    sampler = Sampler(bench.model, bench.device)
    samples = sampler.sample(N, scheduler, steps)  # not timed
    row = Row("sampling", f"sampling {N} images at equal distance", "images/s", TARGET)
    for _ in bench.repeat(REPETITIONS, BUDGET):
        row.plain.append(bench.plain("sample", n=N, ddim_steps=bench.steps(PLAIN_STEPS))["images_per_second"])
        began = time.perf_counter()
        sampler.sample(N, scheduler, steps)
        row.ours.append(N / (time.perf_counter() - began))
    reference, distance = limit(bench), "rms pixel difference to 1000-step samples"
    row.notes = {
        "Chrysalis": f"{scheduler} in {steps} steps, {sampler.precision}",
        f"{distance}, plain loop's {PLAIN_STEPS} steps": rms(plain_samples(bench, len(reference)), reference),
        f"{distance}, Chrysalis's {steps} steps": rms(samples[: len(reference)], reference),
    }
    return row


def plain_samples(bench: Bench, n: int) -> torch.Tensor:
    """Generate uint8 [n, 3, H, W] with the plain loop's sampler, from the noise of ours."""
    unet, ddim = plain_loop.load_model(str(location.locate(bench.model)), DDIMScheduler)
    side = unet.config.sample_size
    noise = seeds.noise(seeds.generators(range(n)), (3, side, side), bench.device)
    with torch.no_grad():
        x = plain_loop.ddim_samples(unet.eval().to(bench.device), ddim, noise, bench.steps(PLAIN_STEPS))
    return pixels.to_uint8(x).cpu()


def limit(bench: Bench) -> torch.Tensor:
    """The 1000-step samples, uint8 [N, 3, H, W]. They take minutes on a CPU: the bundled model's are in this folder,
    those of other models are cached."""
    sampler = Sampler(bench.model, bench.device, "32-true")
    n, steps = (2, bench.steps(LIMIT_STEPS)) if bench.quick else (N, LIMIT_STEPS)
    file = limit_file(bench, sampler, n, steps)
    if not file.is_file():
        # without clipping, which is an approximation for few steps
        whole = sampler.sample(n, "ddim", steps, clip_sample=False)
        if bench.quick:
            return whole
        with written(file) as partial, open(partial, "wb") as stream:
            Image.fromarray(np.concatenate(whole.permute(0, 2, 3, 1).numpy(), axis=1)).save(stream, "PNG")
    sheet = torch.from_numpy(np.asarray(Image.open(file)).copy())  # [H, N W, 3], side by side
    return torch.stack(sheet.chunk(n, dim=1)).permute(0, 3, 1, 2)


def limit_file(bench: Bench, sampler: Sampler, n: int, steps: int) -> Path:
    """The file of the samples of these weights, at this size, number and steps: in this folder, or in the cache."""
    weights = b"".join(w.detach().cpu().contiguous().numpy().tobytes() for w in sampler.model.unet.parameters())
    name = f"limit-{n}-{content_hash(f'{steps} {sampler.model.size()}'.encode() + weights):016x}.png"
    shipped = REPOSITORY / "benchmarks" / "speed" / name
    return shipped if shipped.is_file() else bench.cache / "bench" / name


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square difference of two uint8 batches of images."""
    return (a.float() - b.float()).square().mean().sqrt().item()
