"""Appearance of a species' wings regardless of pose, and its distance from each drawn butterfly.

The domain `insects` must not contain the species on which a model is fine-tuned later.
"""

from functools import lru_cache

import numpy as np

from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.insect_layers import LitWing
from chrysalis.data.synthetic.plane import Array, colour
from chrysalis.data.synthetic.wings import Layer, Outline

COLUMNS = np.linspace(0.1, 0.95, 8, dtype=np.float32)  # u
ROWS = np.linspace(0.06, 0.94, 8, dtype=np.float32)  # v


def wing_colours(outline: Outline, layers: tuple[Layer, ...], palette: dict[str, Array]) -> Array:
    """Return colours [64, 3] at 8 x 8 places of a wing, blurred to 1/16 of its length; bare membrane is grey."""
    u, v = (grid.ravel() for grid in np.meshgrid(COLUMNS, ROWS))
    dx, dy = outline.offset(u * outline.radius(v), v)
    x, y = outline.root[0] + dx, outline.root[1] - dy
    wing = LitWing(outline, x, y, 1 / 16, palette, np.zeros_like(x))
    wing.grain, wing.facing = np.zeros_like(x), np.full_like(x, 0.7)
    rgb = np.zeros((len(x), 3), dtype=np.float32)
    for layer in layers:
        rgb = layer(wing, rgb)
    bare = np.float32(0.6) * (1 - np.broadcast_to(wing.opacity, x.shape))
    return rgb * np.broadcast_to(wing.opacity, x.shape)[:, None] + bare[:, None]


def appearance(
    outlines: tuple[Outline, Outline], layers: tuple[tuple[Layer, ...], tuple[Layer, ...]], palette: dict[str, Array]
) -> Array:
    """Return float32 [768]: the mean colours of forewing and hind wing, and twice the deviations from them.

    The pattern counts double, because it distinguishes species more than their tone does.
    """
    wings = np.stack([wing_colours(o, some, palette) for o, some in zip(outlines, layers, strict=True)])
    mean = wings.mean(axis=1, keepdims=True)
    return np.concatenate([np.broadcast_to(mean, wings.shape).ravel(), 2 * (wings - mean).ravel()])


@lru_cache(maxsize=1)
def butterfly_appearances() -> tuple[Array, Array]:
    """Return the appearances [F, 768] of all forms of the drawn butterflies, and the label [F] of each."""
    found, numbers = [], []
    for number, species in enumerate(BUTTERFLIES):
        for form in species.forms:
            palette = {name: colour(code) for name, code in form.palette.items()}
            layers = species.fore_layers, species.hind_layers
            found.append(appearance((species.fore, species.hind), layers, palette))
            numbers.append(number)
    return np.stack(found), np.array(numbers)


def distances(one: Array, others: Array) -> Array:
    """Return root mean square differences."""
    return np.sqrt(((one - others) ** 2).mean(axis=-1))


@lru_cache(maxsize=1)
def gap() -> float:
    """Return the distance between the two most similar drawn butterflies of different species."""
    found, numbers = butterfly_appearances()
    between = distances(found[:, None], found)
    return float(between[numbers[:, None] != numbers].min())
