"""The fastest settings that are as near to the 1000-step DDIM result as 40 DDIM steps, and their seconds per image.

    python benchmarks/fast_sampling.py [--pretrained assets/moths-64] [--n 8] [--steps 8 10 12 15 20]

Distance: root mean square over the pixels, 0 to 255, to samples of 1000 DDIM steps in float32 from the same noise.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.models import folder
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.model_pairs import denoiser_of
from chrysalis.sampling.loop import sample
from chrysalis.sampling.precision import apply
from chrysalis.sampling.timesteps import TimestepSchedule
from chrysalis.system import hardware

NAMES = ("dpmpp_2m", "deis", "unipc", "lms")


class Bench:
    """Generates images of the same seeds in any precision."""

    def __init__(self, pretrained: str, n: int, device: torch.device):
        self.pretrained, self.n, self.device = pretrained, n, device
        self.denoisers: dict[str, Denoiser] = {}

    def denoiser(self, precision: str) -> Denoiser:
        if precision not in self.denoisers:
            model = folder.load(self.pretrained)
            denoiser, self.size = denoiser_of(model).to(self.device), model.size()
            apply(denoiser, {}, precision)
            self.denoisers[precision] = denoiser
        return self.denoisers[precision]

    def sample(self, name: str, steps: int, precision: str = "32-true", **settings) -> tuple[torch.Tensor, float]:
        """Generate images, clamped to [-1, 1]; returns them and the seconds per image."""
        denoiser = self.denoiser(precision)
        scheduler = schedulers.build(denoiser.scheduler, name, **settings)
        began = time.perf_counter()
        x = sample(denoiser, scheduler, steps, seeds.generators(range(self.n)), self.size).clamp(-1, 1).cpu()
        return x, (time.perf_counter() - began) / self.n

    def evaluations(self, name: str, steps: int) -> int:
        schedule = TimestepSchedule(schedulers.build(self.denoiser("32-true").scheduler, name), steps)
        return schedule.evaluations([(0, len(schedule))])

    def reference(self, steps: int, file: Path | None) -> torch.Tensor:
        """Generate with this many DDIM steps in float32, or read `file`, where the result is cached."""
        settings = {"pretrained": self.pretrained, "n": self.n, "steps": steps}
        if file is not None and file.is_file():
            kept = torch.load(file, weights_only=True)
            if kept["settings"] != settings:
                raise SystemExit(
                    f"--reference={file} was made with {kept['settings']}, not with {settings}: name another file."
                )
            return kept["x"]
        x, _ = self.sample("ddim", steps, clip_sample=False)
        if file is not None:
            torch.save({"settings": settings, "x": x}, file)
        return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="assets/moths-64")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 10, 12, 15, 20])
    parser.add_argument("--reference", type=Path, help="a .pt file that caches the 1000-step result")
    parser.add_argument("--reference-steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1, help="repetitions, of which the median time counts")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = torch.device(hardware.accelerator(arguments.device, "--device"))
    bench = Bench(arguments.pretrained, arguments.n, device)
    limit = bench.reference(arguments.reference_steps, arguments.reference)
    for precision in ("32-true", "bf16-mixed"):  # the first call in each precision is slower
        bench.sample("ddim", 1, precision)

    print(f"{arguments.n} images on {hardware.description(device.type)}")
    print(
        "| scheduler | steps | precision | distance | UNet evaluations | seconds per image |\n|---|---|---|---|---|---|"
    )
    rows = []
    tried = [(name, steps, p) for p in ("32-true", "bf16-mixed") for name in NAMES for steps in arguments.steps]
    for name, steps, precision in [("ddim", 40, "32-true"), *tried]:
        results = [bench.sample(name, steps, precision) for _ in range(arguments.repeats)]
        distance = 127.5 * (results[0][0] - limit).square().mean().sqrt().item()
        seconds = statistics.median(s for _, s in results)
        rows.append((name, steps, precision, distance, seconds))
        evaluations = bench.evaluations(name, steps)
        print(f"| {name} | {steps} | {precision} | {distance:.2f} | {evaluations} | {seconds:.3f} |", flush=True)
    print_fastest(rows)


def print_fastest(rows: list[tuple[str, int, str, float, float]]) -> None:
    """Print the fastest settings. rows: (scheduler, steps, precision, distance, seconds), the baseline first."""
    (*_, bound, plain), *others = rows
    good = [row for row in others if row[3] <= bound]
    if not good:
        print(f"\nNo setting is as near as 40 steps of ddim ({bound:.2f}).")
        return
    for precision in ("32-true", None):
        best = min((row for row in good if precision in (None, row[2])), key=lambda row: row[4], default=None)
        if best is not None:
            name, steps, best_precision, distance, seconds = best
            kind = "of all" if precision is None else "in float32"
            print(
                f"\nFastest {kind} that is no farther than 40 steps of ddim: {name}, {steps} steps, {best_precision}: "
                f"distance {distance:.2f} (ddim {bound:.2f}), {plain / seconds:.1f} times as fast."
            )


if __name__ == "__main__":
    main()
