"""The procedurally drawn domains: butterflies, moths, flowers, insects. An image depends on (domain, index, seed)."""

from dataclasses import dataclass

import numpy as np

from chrysalis.data.synthetic.backgrounds import PHRASES
from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.flowers import FLOWERS, Flower, draw_flower
from chrysalis.data.synthetic.imaginary_insects import draw_imaginary_insect
from chrysalis.data.synthetic.insect_kinds import KINDS
from chrysalis.data.synthetic.insects import Species, draw_insect
from chrysalis.data.synthetic.moth_species import MOTHS
from chrysalis.data.synthetic.plane import Plane

DOMAINS = {"butterflies": BUTTERFLIES, "moths": MOTHS, "flowers": FLOWERS, "insects": KINDS}
ALL = ("butterflies", "moths", "flowers")  # domain=all; insects is for pretraining


@dataclass(frozen=True)
class DrawnImage:
    """One image with its mask, label and caption."""

    image: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # uint8 [H, W], 255 on the subject
    label: int  # number of the species in its domain
    caption: str


def species_names(domain: str) -> list[str]:
    """Return the names of a domain's species, in the order of their labels."""
    return [species.name for species in DOMAINS[domain]]


def draw(domain: str, index: int, seed: int = 0, size: int = 64) -> DrawnImage:
    """Draw image `index` of a domain; the same scene at every `size` (32 to 256 pixels)."""
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, not {domain!r}")
    rng = np.random.default_rng([seed, index, *domain.encode()])
    if domain == "insects":
        rgb, silhouette, label, caption = draw_imaginary_insect(size, rng)
    else:
        rgb, silhouette, label, caption = _draw_species(domain, size, rng)
    image = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
    return DrawnImage(image, (silhouette > 0.5).astype(np.uint8) * 255, label, caption)


def _draw_species(domain: str, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Draw one of a domain's species. Return rgb [H, W, 3] and silhouette [H, W] in [0, 1], its label and a caption."""
    plane = Plane.of_size(size)
    label = int(rng.integers(len(DOMAINS[domain])))
    species = DOMAINS[domain][label]
    if isinstance(species, Flower):
        rgb, silhouette, word, background = draw_flower(species, plane, rng)
        noun = species.name
    else:
        assert isinstance(species, Species)  # the kinds of `insects` are drawn elsewhere
        rgb, silhouette, word, background = draw_insect(species, plane, rng)
        noun = f"{species.name}{' butterfly' * (domain == 'butterflies')} {species.traits}"
    article = "an" if word[0] in "aeiou" else "a"
    caption = f"{article} {word} {noun}, {PHRASES[background]}"
    return plane.settle(rgb), plane.settle(silhouette), label, caption
