"""The drawn world: butterflies, moths, flowers, insects; each image is a function of (domain, index, seed)."""

from dataclasses import dataclass

import numpy as np

from chrysalis.data.synthetic.backgrounds import PHRASES
from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.flowers import FLOWERS, draw_flower
from chrysalis.data.synthetic.imaginary_insects import draw_imaginary_insect
from chrysalis.data.synthetic.insect_kinds import KINDS
from chrysalis.data.synthetic.insects import draw_insect
from chrysalis.data.synthetic.moth_species import MOTHS
from chrysalis.data.synthetic.plane import Plane

DOMAINS = {"butterflies": BUTTERFLIES, "moths": MOTHS, "flowers": FLOWERS, "insects": KINDS}
ALL = ("butterflies", "moths", "flowers")  # what domain=all takes in turn; insects is a domain to pretrain on
NOUNS = {"butterflies": " butterfly", "moths": "", "flowers": ""}


@dataclass(frozen=True)
class Drawn:
    """One image: `image` uint8 [H, W, 3], `mask` uint8 [H, W] (255 where the subject is), what it shows."""

    image: np.ndarray
    mask: np.ndarray
    label: int
    caption: str


def species_names(domain: str) -> list[str]:
    return [species.name for species in DOMAINS[domain]]


def draw(domain: str, index: int, seed: int = 0, size: int = 64) -> Drawn:
    """Draw image `index` of a domain; the same scene at every `size` (32 to 256 pixels)."""
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, not {domain!r}")
    rng = np.random.default_rng([seed, index, *domain.encode()])
    if domain == "insects":
        rgb, silhouette, label, caption = draw_imaginary_insect(size, rng)
    else:
        rgb, silhouette, label, caption = _draw_species(domain, size, rng)
    image = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
    return Drawn(image, (silhouette > 0.5).astype(np.uint8) * 255, label, caption)


def _draw_species(domain: str, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Draw one of a domain's few species: rgb [H, W, 3] and silhouette [H, W] from 0 to 1, its number, a caption."""
    plane = Plane.of_size(size)
    label = int(rng.integers(len(DOMAINS[domain])))
    species = DOMAINS[domain][label]
    paint = draw_flower if domain == "flowers" else draw_insect
    rgb, silhouette, word, background = paint(species, plane, rng)
    traits = f" {species.traits}" if domain != "flowers" else ""
    article = "an" if word[0] in "aeiou" else "a"
    caption = f"{article} {word} {species.name}{NOUNS[domain]}{traits}, {PHRASES[background]}"
    return plane.settle(rgb), plane.settle(silhouette), label, caption
