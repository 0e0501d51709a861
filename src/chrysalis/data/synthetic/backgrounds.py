"""Backgrounds of butterflies, moths and flowers: functions (plane, rng) -> image, and their caption phrases."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.plane import Array, Plane, cloud, color, inside, mixed, over, rotated, smoothstep

Background = Callable[[Plane, Generator], Array]


def _bokeh(plane: Plane, rng: Generator, base: Array, codes: tuple[str, ...], count: int) -> Array:
    """Paint out-of-focus discs of light."""
    for _ in range(count):
        cx, cy, radius = rng.uniform(-1.1, 1.1), rng.uniform(-1.1, 1.1), rng.uniform(0.12, 0.38)
        away = np.hypot(plane.x - cx, plane.y - cy)
        paint = color(codes[rng.integers(len(codes))])
        base = over(base, paint, rng.uniform(0.25, 0.6) * smoothstep(radius * 1.15, radius * 0.75, away))
    return base


def meadow(plane, rng):
    base = mixed(color("#2f5d2a"), color("#9fbf58"), 0.5 - 0.35 * plane.y + 0.5 * cloud(plane.x, plane.y, rng, 0.9, 2))
    return _bokeh(plane, rng, base, ("#d7e27a", "#6f9a3a", "#e8b7cf", "#f0e6a0", "#4a7d36"), 7)


def garden(plane, rng):
    base = mixed(color("#4b3b57"), color("#b08aa6"), 0.5 - 0.3 * plane.y + 0.5 * cloud(plane.x, plane.y, rng, 0.9, 2))
    return _bokeh(plane, rng, base, ("#e29ac0", "#c07fc9", "#8b6bb0", "#f3cfe0", "#6f8a5a"), 8)


def sky(plane, rng):
    base = mixed(color("#5f9fd8"), color("#d5eaf6"), 0.5 + 0.45 * plane.y)
    puffs = smoothstep(0.0, 0.55, cloud(plane.x, plane.y * 1.7, rng, 0.9, 4) - 0.1)
    return over(base, color("#ffffff"), 0.75 * puffs)


def leaf(plane, rng):
    """A large leaf close by, its midrib and side veins running under the insect."""
    x, y = rotated(plane.x, plane.y, rng.uniform(-np.pi, np.pi))
    y = y + 0.15 * x * x + rng.uniform(-0.2, 0.2)
    base = mixed(color("#3c7a35"), color("#7db558"), 0.45 + 0.3 * x + 0.35 * cloud(plane.x, plane.y, rng, 0.7, 2))
    phase = (x * 2.6 - np.abs(y) * 1.7) % 1.0
    side = np.abs(phase - 0.5) / 2.6
    base = over(base, color("#a9cf7c"), 0.45 * inside(0.012 - side, plane.pixel * 1.5))
    return over(base, color("#c6df97"), 0.8 * inside(0.025 - np.abs(y), plane.pixel * 1.5))


def stone(plane, rng):
    grain = 0.6 * cloud(plane.x, plane.y, rng, 0.6, 4) + 0.3 * cloud(plane.x, plane.y, rng, 0.09, 2)
    return mixed(color("#77736c"), color("#cbc5b8"), 0.5 + 0.6 * grain)


def paper(plane, rng):
    """A specimen plate."""
    tone = ("#efe8d6", "#e9e4dc", "#f3eee2", "#e3e7e2")[rng.integers(4)]
    base = np.broadcast_to(color(tone), (*plane.x.shape, 3))
    return over(base, color("#b9ad93"), 0.18 * smoothstep(0.7, 1.5, np.hypot(plane.x, plane.y)))


def bark(plane, rng):
    x = plane.x + 0.06 * cloud(plane.x, plane.y, rng, 0.5, 2)
    furrows = cloud(x * 4.5, plane.y, rng, 0.8, 3)
    base = mixed(color("#3a2c22"), color("#8a725a"), 0.45 + 0.75 * furrows)
    return over(base, color("#7f8f6a"), 0.35 * smoothstep(0.1, 0.6, cloud(plane.x, plane.y, rng, 0.5, 3)))


def dusk(plane, rng):
    base = mixed(color("#1c2340"), color("#5a5680"), 0.45 + 0.4 * plane.y + 0.25 * cloud(plane.x, plane.y, rng, 0.9, 2))
    away = np.hypot(plane.x - rng.uniform(-0.8, 0.8), plane.y - rng.uniform(-0.9, -0.5))
    return over(base, color("#f2e3b3"), 0.75 * smoothstep(0.6, 0.1, away) ** 2)


def lichen(plane, rng):
    base = mixed(color("#6e7468"), color("#b8bba6"), 0.5 + 0.6 * cloud(plane.x, plane.y, rng, 0.35, 3))
    return over(base, color("#c9b66a"), 0.5 * smoothstep(0.15, 0.5, cloud(plane.x, plane.y, rng, 0.4, 3)))


PHRASES: dict[Background, str] = {
    meadow: "over a green meadow",
    garden: "among pink garden flowers",
    sky: "against a blue sky",
    leaf: "on a green leaf",
    stone: "on grey stone",
    paper: "on a cream paper plate",
    bark: "on brown bark",
    dusk: "in the dusk",
    lichen: "on grey lichen",
}

OPEN_AIR: tuple[Background, ...] = (meadow, garden, sky, leaf, stone, paper)
