"""Make the figures of samples in README.md and docs/: run the commands that the pages show, and arrange the results.

    python docs/make_figures.py [schedulers colour symmetry ...]

It needs runs/first, early, label, mask, text and latent; photographs and photographs_conditioned also need
runs/photographs-200, -1000, -4000, -label, -mask and -text, and their images in $CHRYSALIS_PHOTOGRAPHS.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps

from chrysalis.conditions.kinds.mask import UNSEEN_SEED
from chrysalis.conditions.request import Request
from chrysalis.data import pixels
from chrysalis.data.synthetic.domains import draw
from chrysalis.models.folder import load as load_model
from chrysalis.sampling import grids
from chrysalis.sampling.grids import read
from chrysalis.sampling.schedulers import SCHEDULERS

HERE = Path(__file__).resolve().parent
OUT = Path("samples/readme")
FIRST, SIZE = "model.pretrained=runs/first", 128


def sample(out: str, *overrides: str, n: int = 8) -> Path:
    """Run sample.py into samples/readme/out and return that folder."""
    words = [sys.executable, "sample.py", f"out={OUT / out}", f"n={n}", *overrides]
    subprocess.run(words, check=True, cwd=HERE.parent)
    return HERE.parent / OUT / out


def images(folder: Path) -> torch.Tensor:
    return torch.stack([read(path) for path in sorted(folder.glob("seed_*.png"))])


def save(image: Image.Image, name: str) -> None:
    """Write docs/figures/name.webp, a quarter of the size of a PNG."""
    image.save(HERE / "figures" / f"{name}.webp", quality=88, method=6)


def table(rows: dict[str, torch.Tensor], name: str) -> None:
    """Write a figure of rows of images, uint8 [B, 3, H, W], each beside its label."""
    save(grids.table(list(rows.items())), name)


def grid_of(folder: Path, name: str) -> None:
    """Write a figure of the grid that sample.py made."""
    save(Image.open(folder / "grid.png").convert("RGB"), name)


def samples() -> None:
    save(pixels.as_image(pixels.grid(images(sample("samples", FIRST, "seed=100", n=16)), columns=8)), "samples")


def schedulers() -> None:
    names = list(SCHEDULERS)
    rows = {name: images(sample(f"schedulers/{name}", FIRST, f"scheduler={name}", "steps=10")) for name in names}
    table(rows, "schedulers")


def colour() -> None:
    rows = {"unguided": images(sample("colour/0", FIRST, "seed=100"))}
    for scale in (0.2, 0.4, 0.8):
        how = ["guidance=colour", "guidance.colour.target=royalblue", f"guidance.colour.scale={scale}"]
        rows[f"scale {scale}"] = images(sample(f"colour/{scale}", FIRST, "seed=100", *how))
    table(rows, "colour")


def symmetry() -> None:
    rows = {"unguided": images(sample("symmetry/0", FIRST, "seed=100"))}
    for scale in (2, 4, 8):
        how = ["guidance=symmetry", f"guidance.symmetry.scale={scale}"]
        rows[f"scale {scale}"] = images(sample(f"symmetry/{scale}", FIRST, "seed=100", *how))
    table(rows, "symmetry")


def shape() -> None:
    mask, reference = HERE.parent / OUT / "mask.png", HERE.parent / OUT / "reference.png"
    mask.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw("butterflies", 7, seed=UNSEEN_SEED, size=SIZE).mask.squeeze()).save(mask)
    Image.fromarray(draw("flowers", 12, size=SIZE).image).save(reference)
    rows = {"unguided": images(sample("shape/0", FIRST, "seed=100"))}
    how = {
        "silhouette": [f"guidance.silhouette.mask={mask}", "guidance.silhouette.scale=4"],
        "reference": [f"guidance.reference.image={reference}"],
        "brightness": ["guidance.brightness.target=0.85"],
    }
    for name, more in how.items():
        rows[name] = images(sample(f"shape/{name}", FIRST, "seed=100", f"guidance={name}", *more))
    blank = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    targets = {"silhouette": read(mask), "reference": read(reference)}
    rows = {name: torch.cat([targets.get(name, blank)[None], row]) for name, row in rows.items()}
    table(rows, "shape")


def trajectory() -> None:
    how = ["trajectory=true", "seed=100", "animation.formats=[webp]", "animation.frames=24"]
    folder = sample("trajectory", FIRST, *how, n=3)
    save(Image.open(folder / "trajectory.png").convert("RGB"), "trajectory_steps")
    (HERE / "figures" / "trajectory.webp").write_bytes((folder / "trajectory.webp").read_bytes())


def img2img() -> None:
    image = HERE.parent / OUT / "moth.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw("moths", 11, size=SIZE).image).save(image)
    rows = {}
    for strength in (0.5, 0.7, 0.8):
        how = ["task=img2img", f"task.image={image}", f"task.strength={strength}"]
        samples = images(sample(f"img2img/{strength}", FIRST, *how, n=7))
        rows[f"strength {strength}"] = torch.cat([read(image)[None], samples])
    table(rows, "img2img")


def inpaint() -> None:
    image, mask = HERE.parent / OUT / "butterfly.png", HERE.parent / OUT / "half.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw("butterflies", 21, seed=UNSEEN_SEED, size=SIZE).image).save(image)
    half = Image.new("L", (SIZE, SIZE), 0)
    half.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    half.save(mask)
    rows = {}
    for times in (1, 4):
        how = ["task=inpaint", f"task.image={image}", f"task.mask={mask}", f"task.resamplings={times}", "seed=3"]
        samples = images(sample(f"inpaint/{times}", FIRST, *how, n=6))
        holed = read(image)
        holed[:, :, SIZE // 2 :] = 235
        rows[f"resamplings {times}"] = torch.cat([read(image)[None], holed[None], samples])
    table(rows, "inpaint")


def morph() -> None:
    folder = sample("morph", FIRST, "task=morph", "seed=100", "task.frames=12", "animation.formats=[gif]", n=4)
    save(Image.open(folder / "morph.png").convert("RGB"), "morph")
    (HERE / "figures" / "morph.gif").write_bytes((folder / "morph.gif").read_bytes())


def blend() -> None:
    folder = sample("blend", FIRST, "task=blend", "seed=100", n=4)
    grid_of(folder, "blend")


def pairs() -> None:
    first = [FIRST, "seed=100"]
    auto = ["guidance=autoguidance", "guidance.autoguidance.checkpoint=runs/early"]
    rows = {"unguided": [], "domain 1": ["guidance=domain"], "domain 2": ["guidance=domain", "guidance.domain.scale=2"]}
    rows["autoguidance 1"] = auto
    samples = {name: images(sample(f"pairs/{name.replace(' ', '_')}", *first, *how)) for name, how in rows.items()}
    table(samples, "pairs")


def conditioned(name: str, *condition: str, scale: float | None = None) -> None:
    """Write the figure of the grid that sample.py makes of the samples of runs/name."""
    guided = ["guidance=cfg", f"guidance.scale={scale}"] if scale else []
    folder = sample(f"conditions/{name}", f"model.pretrained=runs/{name}", *condition, *guided)
    grid_of(folder, name)


CAPTIONS = (
    "a blue morpho butterfly with shining wings in a dark rim, on a leaf",
    "a yellow brimstone butterfly, in the sky",
    "a white cabbage white butterfly, in a meadow",
    "an orange monarch butterfly with black veins, on paper",
)


def label() -> None:
    conditioned("label", "label=all", scale=2)


def mask() -> None:
    conditioned("mask", "mask=butterflies")


def text() -> None:
    conditioned("text", f"text=[{','.join(json.dumps(c) for c in CAPTIONS)}]", scale=2)


SPECIES = ("danaus_plexippus", "heliconius_charitonius", "nymphalis_antiopa", "pieris_rapae", "vanessa_atalanta")


def photographs() -> None:
    """Write the figure of photographs, and of samples after fine-tuning on them for longer and longer."""
    paths = sorted((Path(os.environ["CHRYSALIS_PHOTOGRAPHS"]) / "butterflies" / "images").rglob("*.*"))
    real = [ImageOps.fit(Image.open(path).convert("RGB"), (SIZE, SIZE)) for path in paths[30 :: len(paths) // 8][:8]]
    rows = {"photographs": torch.stack([pixels.from_image(image) for image in real])}
    runs = {f"{steps:,} steps": [f"runs/photographs-{steps}"] for steps in (200, 1000, 4000)}
    models = {"base model": ["assets/insects-128"], **runs}
    models["4,000, domain"] = ["runs/photographs-4000", "guidance=domain"]
    for name, (model, *how) in models.items():
        folder = sample(f"photographs/{name.replace(' ', '_')}", f"model.pretrained={model}", "seed=300", *how)
        rows[name] = images(folder)
    table(rows, "photographs")


def photographs_conditioned() -> None:
    """Write the figures of samples of the three conditional models of photographs: of species, and of the others."""
    how = ["seed=8", "guidance=cfg", "guidance.scale=2"]
    folder = sample(
        "conditions/species", "model.pretrained=runs/photographs-label", f"label=[{','.join(SPECIES)}]", *how, n=8
    )
    species = {s.replace("_", " "): torch.stack([read(p) for p in sorted(folder.glob(f"{s}_*"))]) for s in SPECIES}
    table(species, "photographs_label")
    # half of the set's masks are nearly empty; these are not
    masks = Path(os.environ["CHRYSALIS_PHOTOGRAPHS"]) / "butterflies" / "masks" / "nymphalis_antiopa"
    request = Request(load_model("runs/photographs-mask").conditioner, {"mask": str(masks)}, None)
    shown = request.cond([0] * 8, range(38, 46), (SIZE, SIZE), "cpu")["mask"]
    rows = {"silhouettes": pixels.to_uint8(shown).expand(-1, 3, -1, -1)}
    rows["samples conditioned on them"] = images(
        sample(
            "conditions/silhouettes", "model.pretrained=runs/photographs-mask", f"mask={masks}", *how, "seed=38", n=8
        )
    )
    for name in ("monarch", "mourning cloak"):
        caption = f"a photo of a {name} butterfly"
        model, prompt = "model.pretrained=runs/photographs-text", f'text="{caption}"'
        rows[caption] = images(sample(f"conditions/{name.split()[0]}", model, prompt, *how, n=8))
    table(rows, "photographs_conditioned")


def latent() -> None:
    """Write the figure of samples of a latent model at 256 px."""
    samples = images(sample("latent", "model.pretrained=runs/latent", "seed=5000"))
    save(pixels.as_image(pixels.grid(samples, columns=4)), "latent")


if __name__ == "__main__":
    figures = [samples, schedulers, colour, symmetry, shape, trajectory, img2img, inpaint, morph, blend, pairs]
    figures += [label, mask, text, photographs, photographs_conditioned, latent]
    for make in figures:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            make()
