"""Random species of imaginary insects, none of which resembles a drawn butterfly.

A species is discarded if it is nearer to a butterfly species than these are to each other: models that are pretrained
on the insects are fine-tuned on the butterflies later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.insect_kinds import INSECT_KINDS, Anatomy, InsectKind, random_anatomy
from chrysalis.data.synthetic.insect_palettes import Palette, random_palette
from chrysalis.data.synthetic.insect_patterns import RandomPattern
from chrysalis.data.synthetic.plane import Array, color
from chrysalis.data.synthetic.wings import Layer, Outline, Wing

U = np.linspace(0.1, 0.95, 8, dtype=np.float32)
V = np.linspace(0.06, 0.94, 8, dtype=np.float32)


@dataclass(frozen=True)
class ImaginarySpecies:
    """A random species: its kind, colors, wing pattern and anatomy."""

    kind: InsectKind
    palette: Palette
    pattern: RandomPattern
    anatomy: Anatomy
    tone: Array  # mean color of the wings


def random_species(rng: Generator) -> ImaginarySpecies:
    """Return a random species that resembles no drawn butterfly."""
    kind = INSECT_KINDS[rng.choice(len(INSECT_KINDS), p=[kind.chance for kind in INSECT_KINDS])]
    while True:
        palette, anatomy = random_palette(rng), random_anatomy(kind, rng)
        pattern = RandomPattern(kind.style, palette, rng)
        look = appearance([(anatomy.fore, pattern.fore), (anatomy.hind, pattern.hind)], palette.colors)
        if distances(look, butterfly_appearances()[0]).min() >= least_butterfly_distance():
            tone = look[: len(look) // 2].reshape(-1, 3).mean(axis=0)
            return ImaginarySpecies(kind, palette, pattern, anatomy, tone)


def wing_colors(outline: Outline, layers: Sequence[Layer], palette: dict[str, Array]) -> Array:
    """Return colors [64, 3] at 8 x 8 places of a wing, blurred to 1/16 of its length; bare membrane is grey."""
    u, v = (grid.ravel() for grid in np.meshgrid(U, V))
    dx, dy = outline.offset(u * outline.radius(v), v)
    wing = Wing(outline, outline.root[0] + dx, outline.root[1] - dy, 1 / 16, palette)
    wing.texture = wing.grain = np.zeros_like(wing.x)
    wing.facing = np.full_like(wing.x, 0.7)
    rgb = wing.paint(layers)
    opacity = np.broadcast_to(wing.opacity, u.shape)[:, None]
    return rgb * opacity + np.float32(0.6) * (1 - opacity)


def appearance(wings: Sequence[tuple[Outline, Sequence[Layer]]], palette: dict[str, Array]) -> Array:
    """Return float32 [768]: the mean colors of forewing and hind wing, and twice the deviations from them.

    It does not depend on the pose. The pattern counts double, because it distinguishes species more than their mean
    colors do.
    """
    colors = np.stack([wing_colors(*wing, palette) for wing in wings])
    mean = colors.mean(axis=1, keepdims=True)
    return np.concatenate([np.broadcast_to(mean, colors.shape).ravel(), 2 * (colors - mean).ravel()])


@lru_cache(maxsize=1)
def butterfly_appearances() -> tuple[Array, Array]:
    """Return the appearances [F, 768] of all forms of the drawn butterflies, and the label [F] of each."""
    found, labels = [], []
    for label, species in enumerate(BUTTERFLIES):
        for form in species.forms:
            palette = {name: color(code) for name, code in form.palette.items()}
            wings = [(species.fore, species.fore_layers), (species.hind, species.hind_layers)]
            found.append(appearance(wings, palette))
            labels.append(label)
    return np.stack(found), np.array(labels)


def distances(one: Array, others: Array) -> Array:
    """Return root mean square differences."""
    return np.sqrt(((one - others) ** 2).mean(axis=-1))


@lru_cache(maxsize=1)
def least_butterfly_distance() -> float:
    """Return the distance between the two most similar drawn butterflies of different species."""
    found, labels = butterfly_appearances()
    between = distances(found[:, None], found)
    return float(between[labels[:, None] != labels].min())
