"""The last table of docs/experiments.md: how much of KD is a shift of all samples.

    python benchmarks/kd_mean_shift.py FOLDER [FOLDER ...]

FOLDER: what `sample.py task=evaluate data=butterflies` wrote. The columns are KD, KD after shifting the mean of the
samples' features to that of the real images, and the brightness and contrast of the images.
"""

import argparse
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from chrysalis.data.sources.drawn import drawn_data
from chrysalis.evaluation.distances import kernel_distance
from chrysalis.evaluation.features import extract
from chrysalis.evaluation.reference import ReferenceFeatures
from chrysalis.sampling.grids import read


def brightness_and_contrast(images: torch.Tensor) -> tuple[float, float]:
    """Mean brightness and mean contrast within an image, both from 0 to 1, of uint8 images [N, 3, H, W]."""
    x = images.float() / 255
    return x.mean().item(), x.std(dim=(1, 2, 3)).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    samples = [torch.stack([read(p) for p in sorted(folder.glob("seed_*.png"))]) for folder in folders]
    data = drawn_data("butterflies", n=1000, image_size=samples[0].shape[-1])
    data.open_images()
    network = instantiate(OmegaConf.load("conf/features/bundled.yaml"))()
    real = ReferenceFeatures(network, data).real
    validation = torch.from_numpy(data.image_set.images[data.validation_rows])
    print("| images | KD | KD with equal means | brightness | contrast |")
    print("|---|--:|--:|--:|--:|")
    print(
        "| {} validation images | | | {:.3f} | {:.3f} |".format(len(validation), *brightness_and_contrast(validation))
    )
    for folder, images in zip(folders, samples, strict=True):
        x = extract(network, images)
        kd, centred = (kernel_distance(real, y).value for y in (x, x - x.mean(0) + real.mean(0)))
        print(
            "| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} |".format(
                folder.name, kd, centred, *brightness_and_contrast(images)
            )
        )


if __name__ == "__main__":
    main()
