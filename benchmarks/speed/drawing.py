"""Pictures a second at equal distance: the plain loop's 40 steps of DDIM beside the fastest way that ours knows.

Distance: root mean square over the pixels, 0 to 255, to what 1000 steps of DDIM in float32 draw from the same noise.
"""

import time

import torch
from diffusers import DDIMScheduler

from benchmarks import plain_loop
from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench
from chrysalis import folder, hardware, pixels, seeds
from chrysalis.data.picture import content_hash
from chrysalis.denoiser import Denoiser
from chrysalis.files import written
from chrysalis.objective import choose
from chrysalis.sampling import arithmetic, schedulers
from chrysalis.sampling.drawing import sample

SCHEDULER, STEPS = "deis", 15
PLAIN_STEPS, LIMIT_STEPS = 40, 1000
N, REPETITIONS = 8, 5
TARGETS = {"cpu": 3.0, "cuda": 8.0}
COMPILED = {"cpu": False, "cuda": True}
# The model whose pictures distances are measured on where the timed one draws nothing
JUDGED = str(folder.REPOSITORY / folder.BUNDLED)


class Drawer:
    """Our side: a model, a scheduler, a number of steps, the precision that suits the device."""

    def __init__(self, pretrained: str, device: str, precision: str = "auto", compiled: bool = False):
        self.model, self.device = folder.load(pretrained), device
        objective = choose(self.model.prediction)
        self.denoiser = Denoiser(self.model.unet, self.model.scheduler, objective).eval().to(device)
        self.precision, _ = hardware.precision(precision, device)
        if precision == "auto":
            hardware.tune(self.denoiser.unet, device)
        arithmetic.use(self.denoiser, {}, self.precision, compiled)

    def draw(self, n: int, scheduler: str, steps: int, **settings) -> torch.Tensor:
        """uint8 [n, 3, H, W]; picture i from seed i alone."""
        built = schedulers.build(self.model.scheduler, scheduler, **settings)
        return pixels.to_uint8(sample(self.denoiser, built, steps, seeds.generators(0, n), self.model.size())).cpu()

    def images_per_second(self, n: int, scheduler: str, steps: int) -> float:
        began = time.perf_counter()
        self.draw(n, scheduler, steps)
        return n / (time.perf_counter() - began)


def drawing(bench: Bench, scheduler: str = SCHEDULER, steps: int = STEPS) -> Row:
    drawer = Drawer(bench.model, bench.device, compiled=COMPILED[bench.device])
    drawer.draw(N, scheduler, steps)
    row = Row("drawing", f"drawing {N} pictures at equal distance", "pictures/s", TARGETS[bench.device])
    for _ in range(bench.runs(REPETITIONS)):
        row.plain.append(bench.plain("sample", n=N, ddim_steps=bench.steps(PLAIN_STEPS))["images_per_second"])
        row.ours.append(drawer.images_per_second(N, scheduler, steps))
    plain, ours = distances(bench, scheduler, steps)
    compiled = ", compiled" if COMPILED[bench.device] else ""
    row.notes = {
        "ours": f"{scheduler} in {steps} steps, {drawer.precision}{compiled}",
        f"distance of the plain loop's {PLAIN_STEPS} steps": plain,
        "of ours": ours,
    }
    return row


def distances(bench: Bench, scheduler: str, steps: int) -> tuple[float, float]:
    """(plain's, ours) to the limit, from the same noise."""
    pretrained = JUDGED if bench.on_gpu else bench.model
    whole = limit(bench, pretrained)
    noise = seeds.noise(seeds.generators(0, len(whole)), whole.shape[1:], bench.device)
    unet, ddim = plain_loop.parts(str(folder.locate(pretrained)), DDIMScheduler)
    with torch.no_grad():
        plain = pixels.to_uint8(plain_loop.drawn(unet.eval().to(bench.device), ddim, noise, PLAIN_STEPS)).cpu()
    ours = Drawer(pretrained, bench.device, compiled=False).draw(len(whole), scheduler, steps)
    return rms(plain, whole), rms(ours, whole)


def limit(bench: Bench, pretrained: str) -> torch.Tensor:
    """uint8 [N, 3, H, W], kept in the user's cache folder: it takes minutes on a CPU."""
    drawer = Drawer(pretrained, bench.device, "32-true")
    weights = b"".join(w.detach().cpu().contiguous().numpy().tobytes() for w in drawer.model.unet.parameters())
    n, steps = (2, bench.steps(LIMIT_STEPS)) if bench.quick else (N, LIMIT_STEPS)
    key = content_hash(f"{steps} {drawer.model.size()} {bench.device}".encode() + weights)
    file = bench.kept / "bench" / f"limit-{n}-{key:016x}.pt"
    if not file.is_file():
        # clipping is an approximation of few steps, not part of what they tend to
        whole = drawer.draw(n, "ddim", steps, clip_sample=False)
        if bench.quick:
            return whole
        with written(file) as partial:
            torch.save(whole, partial)
    return torch.load(file, weights_only=True)


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two uint8 batches of pictures."""
    return (a.float() - b.float()).square().mean().sqrt().item()
