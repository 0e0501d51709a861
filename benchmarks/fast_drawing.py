"""Which drawing is fastest at the quality of the plain one: distance to the 1000-step result against seconds.

python benchmarks/fast_drawing.py [--pretrained assets/moths-64] [--n 8] [--steps 8 10 12 15 20] [--reference FILE.pt]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import choose
from chrysalis.models import folder, location
from chrysalis.sampling import schedulers
from chrysalis.sampling.generation import sample
from chrysalis.sampling.precision import apply
from chrysalis.sampling.schedulers import Timetable
from chrysalis.system import hardware

NAMES = ("dpmpp_2m", "deis", "unipc", "lms")


class Bench:
    """The same seeds in every precision. device: as sample.py would choose it."""

    def __init__(self, pretrained: str, n: int, device: torch.device):
        self.pretrained, self.n, self.device = pretrained, n, device
        self.denoisers: dict[str, Denoiser] = {}

    def denoiser(self, precision: str) -> Denoiser:
        if precision not in self.denoisers:
            model = folder.load(self.pretrained)
            made = Denoiser(model.unet, model.scheduler, choose(model.prediction), model.conditioner)
            apply(made.to(self.device).eval(), {}, precision)
            self.denoisers[precision], self.size = made, model.size()
        return self.denoisers[precision]

    def draw(self, name: str, steps: int, precision: str = "32-true", **settings) -> tuple[torch.Tensor, float]:
        """The images, clamped to [-1, 1], and the seconds that each took."""
        denoiser = self.denoiser(precision)
        scheduler = schedulers.build(denoiser.scheduler, name, **settings)
        began = time.perf_counter()
        x = sample(denoiser, scheduler, steps, seeds.generators(0, self.n), self.size).clamp(-1, 1).cpu()
        return x, (time.perf_counter() - began) / self.n

    def evaluations(self, name: str, steps: int) -> int:
        timetable = Timetable(schedulers.build(self.denoiser("32-true").scheduler, name), steps)
        return timetable.evaluations([(0, len(timetable))])

    def reference(self, steps: int, file: Path | None) -> torch.Tensor:
        """What DDIM draws in so many steps in float32; kept in `file`, and read from there if it is of the same."""
        of = {"pretrained": self.pretrained, "n": self.n, "steps": steps}
        if file is not None and file.is_file():
            kept = torch.load(file, weights_only=True)
            if kept["of"] != of:
                raise SystemExit(f"{file} holds a reference of {kept['of']}, not of {of}: name another file.")
            return kept["x"]
        x, _ = self.draw("ddim", steps, clip_sample=False)
        if file is not None:
            torch.save({"of": of, "x": x}, file)
        return x


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained", default=location.BUNDLED)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 10, 12, 15, 20])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--reference-steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1, help="of every drawing; its median time is told")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = torch.device(hardware.accelerator(arguments.device, "--device"))
    bench = Bench(arguments.pretrained, arguments.n, device)
    limit = bench.reference(arguments.reference_steps, arguments.reference)
    for precision in ("32-true", "bf16-mixed"):  # the first call of a kind is slower
        bench.draw("ddim", 1, precision)

    print(f"{arguments.n} images on {hardware.description(device.type)}")
    print("| scheduler | steps | precision | distance | evaluations | seconds an image |\n|---|---|---|---|---|---|")
    rows = []
    tried = [(name, steps, p) for p in ("32-true", "bf16-mixed") for name in NAMES for steps in arguments.steps]
    for name, steps, precision in [("ddim", 40, "32-true"), *tried]:
        drawn = [bench.draw(name, steps, precision) for _ in range(arguments.repeats)]
        far, seconds = (
            127.5 * (drawn[0][0] - limit).square().mean().sqrt().item(),
            statistics.median(s for _, s in drawn),
        )
        rows.append((name, steps, precision, far, seconds))
        asked = bench.evaluations(name, steps)
        print(f"| {name} | {steps} | {precision} | {far:.2f} | {asked} | {seconds:.3f} |", flush=True)
    answer(rows)


def answer(rows: list[tuple[str, int, str, float, float]]) -> None:
    """rows: (scheduler, steps, precision, distance, seconds), the plain drawing first."""
    (*_, bound, plain), *others = rows
    good = [row for row in others if row[3] <= bound]
    if not good:
        print(f"\nNone is as near as 40 steps of ddim ({bound:.2f}).")
        return
    for precision in ("32-true", None):
        best = min((row for row in good if precision in (None, row[2])), key=lambda row: row[4], default=None)
        if best is not None:
            name, steps, its, far, seconds = best
            kind = "of all" if precision is None else "in float32"
            print(
                f"\nFastest {kind} that is no farther than 40 steps of ddim: {name}, {steps} steps, {its}: distance "
                f"{far:.2f} (ddim {bound:.2f}), {plain / seconds:.1f} times as fast."
            )


if __name__ == "__main__":
    main()
