"""The model-pair table of docs/choosing.md: whether these guidances bring samples nearer to real images.

    python benchmarks/model_pairs.py MODEL BASE EARLIER REAL [--n 48] [--steps 12]

MODEL, BASE, EARLIER: model folders (a run's, its base model, a less trained run's). REAL: `butterflies` for drawn
butterflies that no run trains on, or a folder of images.
"""

import argparse
import statistics

import torch
from patch_distance import distance

from chrysalis.data import pixels
from chrysalis.data.synthetic.domains import draw as drawn_butterfly
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import choose
from chrysalis.models import folder
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.guidance.model_pairs import Pair
from chrysalis.sampling.loop import sample


def load_denoiser(pretrained: str) -> Denoiser:
    model = folder.load(pretrained)
    return Denoiser(model.unet, model.scheduler, choose(model.prediction)).eval()


def real_images(name: str, n: int, size: int) -> torch.Tensor:
    """float [n, 3, size, size] in [-1, 1]."""
    if name == "butterflies":
        drawn = [torch.from_numpy(drawn_butterfly(name, 10_000 + i, size=size).image.copy()) for i in range(n)]
        return pixels.to_signed(torch.stack(drawn).permute(0, 3, 1, 2))

    from chrysalis.data.sources.folder import folder_data

    data = folder_data(name, image_size=size)
    data.setup()
    rows = seeds.permutation(len(data.image_set.images), "real")[:n].sort().values.numpy()
    return pixels.to_signed(torch.from_numpy(data.image_set.images[rows].copy()))[torch.randperm(n)]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "base", "earlier", "real"):
        parser.add_argument(name)
    parser.add_argument("--n", type=int, default=48)
    parser.add_argument("--steps", type=int, default=12)
    a = parser.parse_args()
    model, others = load_denoiser(a.model), {"domain": load_denoiser(a.base), "autoguidance": load_denoiser(a.earlier)}
    real = real_images(a.real, 2 * a.n, model.unet.config.sample_size)

    def distance_to_real(terms: dict) -> str:
        scheduler = schedulers.build(model.scheduler, "dpmpp_2m")
        x = sample(Guided(model, terms), scheduler, a.steps, seeds.generators(range(a.n)), real.shape[-2:]).clamp(-1, 1)
        distances = [distance(x, real[part * a.n :][: a.n], seed) for part in (0, 1) for seed in range(3)]
        return f"{statistics.mean(distances):.0f}"

    scales = (0.25, 0.5, 1.0, 2.0)
    print(f"| {a.real} | unguided | {' | '.join(f'scale {s:g}' for s in scales)} |", flush=True)
    print(f"|---|---|{'---|' * len(scales)}")
    unguided = distance_to_real({})
    for name, other in others.items():
        cells = [distance_to_real({"pair": Pair(other, scale=s)}) for s in scales]
        print(f"| {name} | {unguided} | {' | '.join(cells)} |", flush=True)
    print(f"\nBetween two real sets: {distance(real[: a.n], real[a.n :]):.0f}.")


if __name__ == "__main__":
    main()
