"""How well conditional models follow their conditions, at several guidance scales, according to independent judges.

    python benchmarks/conditions.py label=runs/label mask=runs/mask text=runs/text

label: as many images of each of the ten species; the judge names the species. mask: silhouettes of butterflies that no
model was trained on; compared with the judge's silhouette of the image (mean IoU). text: captions of such
butterflies; the judge names the colour and the exact colour word. The judges are trained once and kept in the cache
folder. At scale 1 there is no guidance.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from judges import VALIDATION, Judges, agreement, butterflies, iou

from chrysalis.conditions.kinds.mask import UNSEEN_SEED, drawn_mask
from chrysalis.data.store import cache_folder
from chrysalis.data.synthetic.domains import draw, species_names
from chrysalis.sampling.grids import read

HERE = Path(__file__).resolve().parent


# The colour words of the captions by colour
COLOURS = {
    "orange": ("orange", "amber", "orange-rimmed", "orange-banded"),
    "brown": ("brown-rimmed",),
    "red": ("red", "black and red"),
    "yellow": ("yellow", "black and yellow"),
    "white": ("white", "cream", "black and white", "white-banded"),
    "green": ("green", "pale green", "lime green"),
    "blue": ("blue", "turquoise"),
    "violet": ("violet",),
}


def colours(words: list[str]) -> list[str]:
    return [next(colour for colour, own in COLOURS.items() if word in own) for word in words]


def word_of(caption: str) -> str:
    """The colour word of a caption, such as "black and yellow": the words before the species."""
    before = min((caption.partition(f" {name} ")[0] for name in species_names("butterflies")), key=len)
    return before.partition(" ")[2]


def generate(model: str, scale: float, *overrides: str) -> tuple[list[str], torch.Tensor]:
    """Run sample.py; returns (names, images uint8 [B, 3, H, W]) in the order of the names."""
    with tempfile.TemporaryDirectory() as folder:
        guided = [] if scale == 1 else ["guidance=cfg", f"guidance.scale={scale}"]
        how = [f"model.pretrained={model}", "scheduler=dpmpp_2m", "steps=20", "batch_size=40", f"out={folder}/samples"]
        command = [sys.executable, "sample.py", *how, *guided, *overrides]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"sample.py ended with {done.returncode}: {shlex.join(command)}\n{done.stderr}")
        files = sorted(Path(folder, "samples").glob("*seed_*.png"))
        return [file.stem for file in files], torch.stack([read(file) for file in files])


def accuracy(judges: Judges, what: str, model: str, scale: float, n: int = 80) -> dict[str, float]:
    """{metric: value from 0 to 1} over `n` images: the fraction that shows the condition; for masks the mean IoU."""
    if what == "label":
        each = -(-n // len(species_names("butterflies")))
        names, images = generate(model, scale, "label=all", f"n={each}")
        expected = [name.rsplit("_seed_", 1)[0].replace("-", " ") for name in names]
        return {"label: species": agreement(judges.species(images), expected)}
    if what == "mask":
        _, images = generate(model, scale, "mask=butterflies", f"n={n}")
        expected = torch.stack([drawn_mask("butterflies", seed, tuple(images.shape[-2:])) for seed in range(n)])
        return {"mask: IoU": iou(judges.silhouette(images), expected > 0).mean().item()}
    captions = [draw("butterflies", i, UNSEEN_SEED, 32).caption for i in range(n)]
    listed = ",".join(json.dumps(caption) for caption in captions)
    names, images = generate(model, scale, f"text=[{listed}]", "n=1")
    expected = [word_of(captions[int(name.split("_")[0].removeprefix("row"))]) for name in names]
    named = judges.word(images)
    return {
        "text: colour": agreement(colours(named), colours(expected)),
        "text: exact word": agreement(named, expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="label=FOLDER, mask=FOLDER or text=FOLDER")
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--n", type=int, default=80, help="images for each figure")
    arguments = parser.parse_args()
    judges = Judges.trained(cache_folder() / "judges.safetensors")
    own = ", ".join(f"{name} {value:.3f}" for name, value in judges.evaluate(butterflies(300, VALIDATION)).items())
    print(f"The judges themselves, on 300 other synthetic images: {own}\n")
    print("| condition |" + "".join(f" scale {scale:g} |" for scale in arguments.scales))
    print("|---" * (1 + len(arguments.scales)) + "|")
    for model in arguments.models:
        what, _, folder = model.partition("=")
        figures = [accuracy(judges, what, folder, scale, arguments.n) for scale in arguments.scales]
        for row in figures[0]:
            print(f"| {row} |" + "".join(f" {figure[row]:.3f} |" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
