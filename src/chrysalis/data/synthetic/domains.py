"""The procedurally drawn domains: butterflies, moths, flowers, insects. An image depends on (domain, index, seed)."""

from dataclasses import dataclass

import numpy as np

from chrysalis.data.synthetic.backgrounds import PHRASES
from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.flowers import FLOWERS, Flower, draw_flower
from chrysalis.data.synthetic.imaginary_insects import draw_imaginary_insect
from chrysalis.data.synthetic.insect_kinds import INSECT_KINDS
from chrysalis.data.synthetic.moth_species import MOTHS
from chrysalis.data.synthetic.plane import Plane
from chrysalis.data.synthetic.species import draw_species

SPECIES = {"butterflies": BUTTERFLIES, "moths": MOTHS, "flowers": FLOWERS}  # domain=all
DOMAINS = (*SPECIES, "insects")  # insects is for pretraining


@dataclass(frozen=True)
class DrawnImage:
    """One image with its mask, label and caption."""

    image: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # uint8 [H, W], 255 on the subject
    label: int  # index of the species in its domain
    caption: str


def species_names(domain: str) -> list[str]:
    """Return the names of a domain's species, in the order of their labels."""
    return [species.name for species in SPECIES.get(domain, INSECT_KINDS)]


def draw(domain: str, index: int, seed: int = 0, size: int = 64) -> DrawnImage:
    """Draw image `index` of one of DOMAINS; the same scene at every `size` (32 to 256 pixels)."""
    rng = np.random.default_rng([seed, index, *domain.encode()])
    if domain == "insects":
        rgb, silhouette, label, caption = draw_imaginary_insect(size, rng)
    else:
        plane = Plane.of_size(size)
        label = int(rng.integers(len(SPECIES[domain])))
        species = SPECIES[domain][label]
        if isinstance(species, Flower):
            rgb, silhouette, word, background = draw_flower(species, plane, rng)
            noun = species.name
        else:
            rgb, silhouette, word, background = draw_species(species, plane, rng)
            noun = f"{species.name}{' butterfly' * (domain == 'butterflies')} {species.traits}"
        caption = f"{'an' if word[0] in 'aeiou' else 'a'} {word} {noun}, {PHRASES[background]}"
        rgb, silhouette = plane.downsampled(rgb), plane.downsampled(silhouette)
    image = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
    return DrawnImage(image, (silhouette > 0.5).astype(np.uint8) * 255, label, caption)
