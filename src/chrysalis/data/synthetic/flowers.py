"""Flowers: rings of petals about a disc. A distant domain for transfer experiments."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.backgrounds import Background, dusk, leaf, meadow, paper, sky, stone
from chrysalis.data.synthetic.plane import Array, Plane, cloud, color, inside, mixed, over, rotated, smoothstep

BACKGROUNDS: tuple[Background, ...] = (meadow, leaf, sky, stone, paper, dusk)


@dataclass(frozen=True)
class Flower:
    """One species of flower."""

    name: str
    petals: tuple[int, ...]  # how many in each ring, outside in
    pointed: float  # 0 round, 1 pointed
    disc: float
    forms: tuple[tuple[str, str, str, str], ...]  # word, petal, throat, disc


FLOWERS = (
    Flower("daisy", (16,), 0.25, 0.24,
           (("white", "#f7f4ea", "#e8e2c8", "#eeb92c"), ("pink", "#e9a5c0", "#f6dbe6", "#e8c03a"))),
    Flower("poppy", (4,), 0.0, 0.16,
           (("red", "#d8341f", "#2a1512", "#3a4a2c"), ("orange", "#ee8a2a", "#f6c04a", "#8a9a3c"))),
    Flower("dahlia", (14, 11, 8), 0.7, 0.1,
           (("magenta", "#b02a6a", "#d8609a", "#5e1438"), ("yellow", "#eec43a", "#f6e07a", "#a8741c"))),
    Flower("gentian", (5,), 0.8, 0.12,
           (("blue", "#3552c8", "#9fb4f2", "#f0eccf"), ("violet", "#6a3cb0", "#c4a4ee", "#f2eccf"))),
    Flower("rose", (5, 5, 4), 0.0, 0.12,
           (("pink", "#e0688a", "#f2a8b8", "#f0cf6a"), ("cream", "#f0e2c0", "#f8f2dd", "#d8b04a")))
)  # fmt: skip


def draw_flower(flower: Flower, plane: Plane, rng: Generator) -> tuple[Array, Array, str, Background]:
    """Return (rgb [S, S, 3], silhouette [S, S], color word, background), super-sampled."""
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    rgb = background(plane, rng)
    word, petal, throat, center = flower.forms[rng.integers(len(flower.forms))]
    scale, turn = rng.uniform(0.62, 0.86), rng.uniform(0, 2 * np.pi)
    x, y = rotated(plane.x - rng.uniform(-0.12, 0.12), plane.y - rng.uniform(-0.12, 0.12), turn)
    tilt = rng.uniform(0.82, 1.0)
    x, y, pixel = x / scale, y / scale / tilt, plane.pixel / scale
    r, theta = np.hypot(x, y) + 1e-6, np.arctan2(y, x)
    texture, silhouette = cloud(x, y, rng, 0.12, 2), np.zeros_like(r)
    light = np.float32(rng.uniform(0.9, 1.08))

    for ring, count in enumerate(flower.petals):
        reach = 1 - 0.26 * ring
        phase = (theta / (2 * np.pi) * count + 0.5 * ring) % 1.0 - 0.5
        half_width = np.clip(np.abs(phase) * 2, 0, 1)
        shape = reach * (1 - flower.pointed * half_width**1.2 * 0.45 - (1 - flower.pointed) * half_width**4 * 0.3)
        depth = np.minimum(shape - r, (1 - half_width) * r * np.pi / count + 0.25 * (0.75 * reach - r))
        cover = inside(depth, pixel)
        shade = (0.82 + 0.2 * (1 - half_width) + 0.08 * texture) * light
        paint = mixed(color(petal), color(throat), smoothstep(0.55 * reach, 0.12, r))
        rgb = over(rgb, color("#12100e"), 0.25 * inside(depth + 0.05, 0.12) * (1 - cover))
        rgb = over(rgb, np.clip(paint * shade[..., None], 0, 1), cover)
        silhouette = np.maximum(silhouette, cover)

    disc = inside(flower.disc - r, pixel)
    seeds = 0.82 + 0.25 * np.sin(r * 90 + 3 * np.sin(theta * 8)) * smoothstep(0, 0.1, r) + 0.1 * texture
    rgb = over(rgb, np.clip(color(center) * seeds[..., None], 0, 1), disc)
    return rgb, np.maximum(silhouette, disc), word, background
