"""The table of docs/choosing.md: every scheduler at several numbers of steps, against the 1000-step result.

python benchmarks/schedulers.py [--pretrained assets/moths-64] [--n 16] [--steps 5 10 20 40 80]
"""

import argparse
import time

import torch
from picture_sets import distance

from chrysalis import folder, seeds
from chrysalis.denoiser import Denoiser
from chrysalis.objective import choose
from chrysalis.sampling import schedulers
from chrysalis.sampling.drawing import sample
from chrysalis.sampling.schedulers import Timetable

RANDOM = ("ddpm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde")  # another picture at every number of steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained", default=folder.BUNDLED)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    arguments = parser.parse_args()
    model = folder.load(arguments.pretrained)
    denoiser = Denoiser(model.unet, model.scheduler, choose(model.prediction)).eval()

    def draw(name: str, steps: int, seed: int = 0, **settings) -> tuple[torch.Tensor, float]:
        scheduler = schedulers.build(model.scheduler, name, **settings)
        began = time.perf_counter()
        x = sample(denoiser, scheduler, steps, seeds.generators(seed, arguments.n), model.size())
        return x.clamp(-1, 1), (time.perf_counter() - began) / arguments.n

    limit, _ = draw("ddim", 1000, clip_sample=False)
    noisy_limit, _ = draw("ddpm", 1000)
    print(f"| scheduler | {' | '.join(f'{steps} steps' for steps in arguments.steps)} |")
    print(f"|---|{'---|' * len(arguments.steps)}")
    for name in schedulers.SCHEDULERS:
        cells = []
        for steps in arguments.steps:
            x, seconds = draw(name, steps)
            asked = Timetable(schedulers.build(model.scheduler, name), steps)
            asked = asked.evaluations([(0, len(asked))])
            if name in RANDOM:
                far = f"set {distance(x, noisy_limit):.0f}"
            else:
                far = f"{127.5 * (x - limit).square().mean().sqrt().item():.1f}, set {distance(x, limit):.0f}"
            cells.append(f"{far} ({asked} x, {seconds:.2f} s)")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    other, _ = draw("ddim", 250, seed=1000, clip_sample=False)
    apart = distance(other, limit)
    print(f"\nTwo sets of {arguments.n} other pictures, both by DDIM, are {apart:.0f} apart.")


if __name__ == "__main__":
    main()
