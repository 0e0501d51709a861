"""Surfaces below imaginary insects, seen from above.

Each is a function (plane, rng) -> rgb float32 [size, size, 3] with one sample per pixel.
"""

import numpy as np

from chrysalis.data.synthetic.insect_palettes import oklch
from chrysalis.data.synthetic.plane import blurred, inside, mixed, noise, over, rotated, smoothstep
from chrysalis.data.synthetic.scenery import Backdrop, meadow, out_of_focus, paint_flower, paint_leaf


def paper(plane, rng):
    """A specimen plate."""
    base = oklch(rng.uniform(0.87, 0.97), rng.uniform(0.004, 0.03), rng.uniform(60, 120))
    grain = 1 + 0.012 * noise(plane, rng, 0.06, 1) + 0.015 * noise(plane, rng, 0.8, 1)
    return base * grain[..., None]


def leaf(plane, rng):
    base = oklch(rng.uniform(0.4, 0.55), rng.uniform(0.07, 0.12), rng.uniform(110, 150))
    rgb = np.broadcast_to(base * np.float32(0.6), (*plane.x.shape, 3))
    hue, tone = rng.uniform(105, 150), rng.uniform(0.5, 0.7)
    place = rng.uniform(-0.3, 0.3, 2), rng.uniform(-np.pi, np.pi)
    return paint_leaf(rgb, plane, rng, place, (2.4, rng.uniform(0.9, 1.7)), (tone, 0.11, hue))


def foliage(plane, rng):
    """Overlapping leaves, the lower ones darker and less sharp."""
    hue, tone = rng.uniform(100, 150), rng.uniform(0.48, 0.68)
    rgb = out_of_focus(plane, rng, (hue, hue + 20), (0.24, 0.4), 0.06)
    number = int(rng.integers(4, 9))
    for k in range(number):
        light = tone * (0.6 + 0.4 * (k + 1) / number) * rng.uniform(0.9, 1.1)
        length, center = rng.uniform(0.5, 1.0), rng.uniform(-1.0, 1.0, 2)
        shape = length, length * rng.uniform(0.25, 0.55)
        place, color = (center, rng.uniform(-np.pi, np.pi)), (light, 0.1, hue + rng.normal(0, 8))
        rgb = paint_leaf(rgb, plane, rng, place, shape, color, 0.04 * (1 - k / number))
    return rgb


def litter(plane, rng):
    """Fallen leaves on the ground."""
    rgb = out_of_focus(plane, rng, (45, 80), (0.2, 0.42), 0.05)
    for _ in range(rng.integers(4, 9)):
        length, center = rng.uniform(0.3, 0.7), rng.uniform(-1.0, 1.0, 2)
        color = rng.uniform(0.35, 0.68), rng.uniform(0.04, 0.1), rng.uniform(45, 90)
        place, shape = (center, rng.uniform(-3, 3)), (length, length * rng.uniform(0.3, 0.6))
        rgb = paint_leaf(rgb, plane, rng, place, shape, color)
    return rgb * (1 + 0.08 * noise(plane, rng, 0.05, 1))[..., None]


def stone(plane, rng):
    tone, hue, chroma = rng.uniform(0.45, 0.75), rng.uniform(40, 280), rng.uniform(0.0, 0.025)
    grain = 0.6 * noise(plane, rng, rng.uniform(0.4, 0.9), 4) + 0.35 * noise(plane, rng, 0.07, 2)
    rgb = mixed(oklch(tone - 0.17, chroma, hue), oklch(tone + 0.14, chroma, hue), 0.5 + 0.5 * grain)
    if rng.random() < 0.4:
        patches = smoothstep(0.2, 0.5, noise(plane, rng, 0.4, 3))
        rgb = over(rgb, oklch(rng.uniform(0.6, 0.8), rng.uniform(0.03, 0.12), rng.uniform(70, 130)), 0.6 * patches)
    return rgb


def sand(plane, rng):
    tone, hue = rng.uniform(0.6, 0.85), rng.uniform(55, 95)
    grain = 0.45 * noise(plane, rng, 0.035, 1) + 0.5 * noise(plane, rng, 0.9, 3, 0.4)
    return mixed(oklch(tone - 0.12, 0.05, hue), oklch(tone + 0.1, 0.035, hue + 5), 0.5 + 0.6 * grain)


def bark(plane, rng):
    tone, hue, chroma = rng.uniform(0.3, 0.6), rng.uniform(40, 100), rng.uniform(0.01, 0.05)
    furrows = noise(plane, rng, rng.uniform(0.14, 0.35), 3, rng.uniform(3, 6))
    rgb = mixed(oklch(tone - 0.17, chroma, hue), oklch(tone + 0.14, chroma, hue), 0.5 + 0.75 * furrows)
    moss = smoothstep(0.15, 0.6, noise(plane, rng, 0.5, 3))
    rgb = over(rgb, oklch(0.6, rng.uniform(0.02, 0.09), rng.uniform(100, 140)), rng.uniform(0, 0.6) * moss)
    return np.ascontiguousarray(rgb.swapaxes(0, 1)) if rng.random() < 0.35 else rgb


def moss(plane, rng):
    tufts = 0.6 * noise(plane, rng, 0.3, 3) + 0.5 * noise(plane, rng, 0.06, 2)
    hue = rng.uniform(100, 135)
    return mixed(oklch(0.27, 0.06, hue), oklch(rng.uniform(0.58, 0.75), 0.12, hue - 6), 0.45 + 0.6 * tufts)


def wood(plane, rng):
    """A board with its grain."""
    x, y = rotated(plane.x, plane.y, rng.uniform(-np.pi, np.pi))
    tone, hue = rng.uniform(0.4, 0.78), rng.uniform(45, 85)
    warp = y + 0.12 * noise(plane, rng, 0.9, 2) + 0.05 * np.sin(2 * x + rng.uniform(0, 6))
    lines = np.sin(warp * rng.uniform(14, 30)) * 0.5 + 0.4 * np.sin(warp * 47 + 2)
    rgb = mixed(oklch(tone - 0.09, 0.05, hue), oklch(tone + 0.07, 0.045, hue + 6), 0.5 + 0.4 * lines)
    return rgb * (1 + 0.05 * noise(plane, rng, 0.05, 1))[..., None]


def blossom(plane, rng):
    """The head of a large flower that fills most of the image."""
    rgb = meadow(plane, rng)
    return paint_flower(rgb, plane, rng, rng.uniform(-0.35, 0.35, 2), rng.uniform(0.9, 1.4), 0.0)


def blossoms(plane, rng):
    """A bed of small flowers, out of focus to the rear."""
    rgb = blurred(foliage(plane, rng), 0.03)
    for k in range(rng.integers(4, 8)):
        rgb = paint_flower(rgb, plane, rng, rng.uniform(-1, 1, 2), rng.uniform(0.2, 0.42), 0.05 * (k % 3 == 0))
    return rgb


def gravel(plane, rng):
    """Pebbles: cells about scattered points, rounded towards their rims."""
    cells, hue = int(rng.integers(5, 9)), rng.uniform(30, 260)
    points = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2) + 0.5
    points = (points + rng.uniform(-0.42, 0.42, points.shape)) / cells * 2 - 1
    tones = rng.uniform(0.4, 0.82, len(points))
    paints = np.stack([oklch(tone, rng.uniform(0, 0.035), hue + rng.normal(0, 25)) for tone in tones])
    px, py = points.T.astype(np.float32)
    away = np.hypot(plane.x[..., None] - px, plane.y[..., None] - py)
    near, far = np.partition(away, 1, axis=-1)[..., :2].transpose(2, 0, 1)
    nearest = away.argmin(axis=-1)
    rim = inside((far - near) - 0.05, 0.12)
    return paints[nearest] * (0.35 + 0.65 * rim * (1 + 0.1 * noise(plane, rng, 0.06, 1)))[..., None]


SURFACES: tuple[Backdrop, ...] = (
    (leaf, 1.6, "on a large leaf"),
    (foliage, 1.0, "on green leaves"),
    (litter, 0.6, "on fallen leaves"),
    (stone, 1.2, "on stone"),
    (sand, 0.7, "on sand"),
    (bark, 0.9, "on bark"),
    (moss, 0.5, "on moss"),
    (wood, 0.5, "on a wooden board"),
    (gravel, 0.3, "on pebbles"),
    (paper, 1.1, "on a paper plate"),
    (blossom, 0.6, "on a large flower"),
    (blossoms, 0.5, "on small flowers"),
)
