"""The model-pair table of docs/choosing.md: whether these guidances bring samples nearer to real images.

    python benchmarks/model_pairs.py MODEL BASE EARLIER REAL [--n 48] [--steps 12]

MODEL, BASE, EARLIER: the folders of a run's model, of its base model and of a less trained run's model. REAL: a folder
of images, or `butterflies` for synthetic ones that no run trains on. The figures are distances of sets of images, see
patch_distance.py.
"""

import argparse
import statistics

import torch
from patch_distance import distance

from chrysalis.data import pixels
from chrysalis.data.synthetic.domains import draw
from chrysalis.diffusion import seeds
from chrysalis.models import folder
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.guidance.model_pairs import Pair, denoiser_of
from chrysalis.sampling.loop import sample


def real_images(name: str, n: int, size: int) -> torch.Tensor:
    """Open n images, float [n, 3, size, size] in [-1, 1]."""
    if name == "butterflies":
        drawn = [torch.from_numpy(draw(name, 10_000 + i, size=size).image.copy()) for i in range(n)]
        return pixels.to_signed(torch.stack(drawn).permute(0, 3, 1, 2))

    from chrysalis.data.sources.folder import folder_data

    data = folder_data(name, image_size=size)
    data.setup()
    rows = seeds.permutation(len(data.image_set.images), "real")[:n].sort().values.numpy()
    return pixels.to_signed(torch.from_numpy(data.image_set.images[rows].copy()))[torch.randperm(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "base", "earlier", "real"):
        parser.add_argument(name)
    parser.add_argument("--n", type=int, default=48)
    parser.add_argument("--steps", type=int, default=12)
    a = parser.parse_args()
    model, base, earlier = (denoiser_of(folder.load(pretrained)) for pretrained in (a.model, a.base, a.earlier))
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
    for name, other in {"domain": base, "autoguidance": earlier}.items():
        cells = [distance_to_real({"pair": Pair(other, scale=s)}) for s in scales]
        print(f"| {name} | {unguided} | {' | '.join(cells)} |", flush=True)
    print(f"\nDistance of two sets of real images: {distance(real[: a.n], real[a.n :]):.0f}.")


if __name__ == "__main__":
    main()
