"""The table of docs/choosing.md: the distance of every scheduler to its 1000-step result at several numbers of steps.

    python benchmarks/schedulers.py [--pretrained assets/moths-64] [--n 16] [--steps 5 10 20 40 80]

Deterministic schedulers: root mean square over the pixels, 0 to 255, to 1000 DDIM steps from the same noise. Stochastic
ones: the distance of the sets of images (patch_distance.py) to a set of 1000 DDPM steps.
"""

import argparse
import statistics
import time

import torch
from patch_distance import distance

from chrysalis.diffusion import seeds
from chrysalis.models import folder
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.model_pairs import denoiser_of
from chrysalis.sampling.loop import sample
from chrysalis.sampling.timesteps import TimestepSchedule

RANDOM = ("ddpm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde")  # stochastic: another image for each number of steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="assets/moths-64")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    arguments = parser.parse_args()
    model = folder.load(arguments.pretrained)
    denoiser = denoiser_of(model)

    def generate(name: str, steps: int, seed: int = 0, **settings) -> tuple[torch.Tensor, float]:
        scheduler = schedulers.build(model.scheduler, name, **settings)
        began = time.perf_counter()
        x = sample(denoiser, scheduler, steps, seeds.generators(range(seed, seed + arguments.n)), model.size())
        return x.clamp(-1, 1), (time.perf_counter() - began) / arguments.n

    limit, _ = generate("ddim", 1000, clip_sample=False)
    noisy_limit, _ = generate("ddpm", 1000)
    seconds_per_evaluation = []
    head = f"| {' | '.join(f'{steps} steps' for steps in arguments.steps)} |\n|---|{'---|' * len(arguments.steps)}"
    for title, names in (
        ("distance", [n for n in schedulers.SCHEDULERS if n not in RANDOM]),
        ("distance of sets", RANDOM),
    ):
        print(f"| {title} {head}", flush=True)
        for name in names:
            cells = []
            for steps in arguments.steps:
                x, seconds = generate(name, steps)
                schedule = TimestepSchedule(schedulers.build(model.scheduler, name), steps)
                evaluations = schedule.evaluations([(0, len(schedule))])
                seconds_per_evaluation.append(seconds / evaluations)
                value = (
                    distance(x, noisy_limit) if name in RANDOM else 127.5 * (x - limit).square().mean().sqrt().item()
                )
                cells.append(f"{value:.0f}" if name in RANDOM else f"{value:.1f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print()
    other, _ = generate("ddpm", 1000, seed=1000)
    print(f"Distance of two sets of {arguments.n} images of 1000 ddpm steps: {distance(other, noisy_limit):.0f}.")
    print(f"Median seconds per image and UNet evaluation: {statistics.median(seconds_per_evaluation):.4f}")


if __name__ == "__main__":
    main()
