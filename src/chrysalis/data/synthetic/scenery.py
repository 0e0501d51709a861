"""The backdrops of imaginary insects, how often each is chosen, and what captions call it."""

from collections.abc import Callable

import numpy as np

from chrysalis.data.synthetic import scenery_surfaces as surfaces
from chrysalis.data.synthetic import scenery_views as views
from chrysalis.data.synthetic.plane import Array

Backdrop = Callable[[int, np.random.Generator], Array]
Choice = tuple[Backdrop, float, str]

# (backdrop, weight, caption phrase). On a surface an insect casts its shadow.
SURFACES: tuple[Choice, ...] = (
    (surfaces.leaf, 1.6, "on a large leaf"),
    (surfaces.foliage, 1.0, "on green leaves"),
    (surfaces.litter, 0.6, "on fallen leaves"),
    (surfaces.stone, 1.2, "on stone"),
    (surfaces.sand, 0.7, "on sand"),
    (surfaces.bark, 0.9, "on bark"),
    (surfaces.moss, 0.5, "on moss"),
    (surfaces.wood, 0.5, "on a wooden board"),
    (surfaces.gravel, 0.3, "on pebbles"),
    (surfaces.paper, 1.1, "on a paper plate"),
    (surfaces.blossom, 0.6, "on a large flower"),
    (surfaces.blossoms, 0.5, "on small flowers"),
)
VIEWS: tuple[Choice, ...] = (
    (views.meadow, 1.8, "before a blurred meadow"),
    (views.garden, 1.4, "before blurred garden flowers"),
    (views.forest, 0.8, "before a dark forest"),
    (views.sky, 1.5, "against the sky"),
    (views.evening, 0.5, "in the evening light"),
    (views.water, 0.5, "over water"),
    (views.autumn, 0.6, "before autumn colours"),
    (views.reeds, 0.5, "among reeds"),
    (views.studio, 0.7, "before a plain backdrop"),
)


def choose(backdrops: tuple[Choice, ...], rng: np.random.Generator) -> tuple[Backdrop, str]:
    """Choose a backdrop by weight. Return it and its caption phrase."""
    weights = np.array([weight for _, weight, _ in backdrops])
    backdrop, _, phrase = backdrops[rng.choice(len(backdrops), p=weights / weights.sum())]
    return backdrop, phrase
