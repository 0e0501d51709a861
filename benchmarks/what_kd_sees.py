"""The last table of docs/experiments.md: how much of KD is what all samples have in common.

    python benchmarks/what_kd_sees.py FOLDER [FOLDER ...]

FOLDER: what `sample.py task=evaluate data=butterflies` made. Beside KD stands the KD of the same images once the mean
of their features is that of the real ones, and in the last columns brightness and contrast of the images themselves.
"""

import argparse
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from chrysalis.data import datamodule
from chrysalis.evaluation.distances import kernel_distance
from chrysalis.evaluation.features import extract
from chrysalis.evaluation.reference import Reference
from chrysalis.sampling.grids import read


def look(images: torch.Tensor) -> tuple[float, float]:
    """Brightness, and contrast within an image, both from 0 to 1, of uint8 images [N, 3, H, W]."""
    shown = images.float() / 255
    return shown.mean().item(), shown.std(dim=(1, 2, 3)).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    drawn = [torch.stack([read(p) for p in sorted(folder.glob("seed_*.png"))]) for folder in folders]
    data = datamodule.drawn("butterflies", n=1000, image_size=drawn[0].shape[-1])
    data.look()
    network = instantiate(OmegaConf.load("conf/features/bundled.yaml"))()
    real = Reference(network, data).real
    shown = torch.from_numpy(data.image_set.images[data.validation_rows])
    print("| images | KD | KD with equal means | brightness | contrast |")
    print("|---|--:|--:|--:|--:|")
    print("| {} validation images | | | {:.3f} | {:.3f} |".format(len(shown), *look(shown)))
    for folder, images in zip(folders, drawn, strict=True):
        x = extract(network, images)
        apart, centred = (kernel_distance(real, y).value for y in (x, x - x.mean(0) + real.mean(0)))
        print("| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} |".format(folder.name, apart, centred, *look(images)))


if __name__ == "__main__":
    main()
