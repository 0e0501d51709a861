"""Views behind imaginary insects: open air out of focus, and a plain studio backdrop.

Each is a function (plane, rng) -> rgb float32 [size, size, 3] with one sample per pixel.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.insect_palettes import oklch
from chrysalis.data.synthetic.plane import Array, Plane, mixed, noise, over, smoothstep
from chrysalis.data.synthetic.scenery_objects import paint_stem

Backdrop = tuple[Callable[[Plane, Generator], Array], float, str]


def out_of_focus(
    plane: Plane, rng: Generator, hues: tuple[float, float], tones: tuple[float, float], chroma: float = 0.1
) -> Array:
    """Three blurred colors, brighter above or on one side."""
    dark, mid, light = (
        oklch(tone, chroma * rng.uniform(0.5, 1.2), rng.uniform(*hues))
        for tone in (tones[0], rng.uniform(*tones), tones[1])
    )
    angle = rng.normal(0, 0.7)
    slope = np.float32(np.sin(angle)) * plane.x - np.float32(np.cos(angle)) * plane.y
    rgb = mixed(dark, light, 0.5 + 0.35 * slope + 0.55 * noise(plane, rng, rng.uniform(0.5, 1.1), 2))
    return over(rgb, mid, 0.8 * smoothstep(0.0, 0.6, noise(plane, rng, rng.uniform(0.4, 0.9), 1)))


def _discs(rgb: Array, plane: Plane, rng: Generator, hues: tuple[float, float], number: int, glow: float) -> Array:
    """Out-of-focus highlights: discs of about one size, brighter than what lies behind."""
    typical = rng.uniform(0.07, 0.3)
    for _ in range(number):
        cx, cy = rng.uniform(-1.2, 1.2, 2)
        radius, soft = typical * rng.uniform(0.6, 1.4), rng.uniform(0.15, 0.5)
        away = np.hypot(plane.x - np.float32(cx), plane.y - np.float32(cy))
        color = oklch(rng.uniform(0.6, 0.92), rng.uniform(0.03, 0.14), rng.uniform(*hues))
        cover = smoothstep(radius * (1 + soft), radius * (1 - soft), away)
        rgb = over(rgb, color, rng.uniform(0.2, glow) * cover)
    return rgb


def meadow(plane, rng):
    rgb = out_of_focus(plane, rng, (105, 150), (rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.82)))
    for _ in range(rng.integers(0, 5)):
        width, tone = rng.uniform(0.02, 0.06), rng.uniform(0.4, 0.8)
        rgb = paint_stem(rgb, plane, rng, width, oklch(tone, 0.1, rng.uniform(100, 140)), 0.05)
    return _discs(rgb, plane, rng, (60, 150), rng.integers(0, 9), 0.6)


def garden(plane, rng):
    hue = rng.uniform(0, 360)
    rgb = out_of_focus(plane, rng, (hue - 30, hue + 60), (rng.uniform(0.34, 0.52), rng.uniform(0.65, 0.85)), 0.095)
    if rng.random() < 0.5:
        green = oklch(rng.uniform(0.4, 0.6), 0.09, rng.uniform(115, 145))
        rgb = over(rgb, green, smoothstep(-0.1, 0.5, noise(plane, rng, 0.8, 1)))
    return _discs(rgb, plane, rng, (hue - 40, hue + 70), rng.integers(3, 10), 0.65)


def forest(plane, rng):
    rgb = out_of_focus(plane, rng, (95, 165), (rng.uniform(0.18, 0.32), rng.uniform(0.42, 0.6)), 0.07)
    return _discs(rgb, plane, rng, (90, 130), rng.integers(2, 12), 0.5)


def sky(plane, rng):
    hue, top = rng.normal(248, 9), rng.uniform(0.55, 0.78)
    high, low = oklch(top, rng.uniform(0.06, 0.13), hue), oklch(min(top + 0.2, 0.95), 0.03, hue - 15)
    rgb = mixed(high, low, 0.5 + 0.45 * plane.y)
    cover = smoothstep(0.0, 0.55, noise(plane, rng, 0.9, 4, 0.6) - rng.uniform(-0.1, 0.5))
    return over(rgb, oklch(0.97, 0.01, 80), 0.85 * cover)


def evening(plane, rng):
    hue = rng.uniform(240, 310)
    rgb = mixed(oklch(rng.uniform(0.2, 0.35), 0.06, hue), oklch(0.68, 0.11, rng.uniform(20, 80)), 0.35 + 0.5 * plane.y)
    rgb = over(rgb, oklch(0.5, 0.05, hue), 0.5 * smoothstep(-0.2, 0.6, noise(plane, rng, 0.9, 2, 0.5)))
    return _discs(rgb, plane, rng, (40, 95), rng.integers(0, 7), 0.55)


def water(plane, rng):
    hue = rng.uniform(190, 255)
    ripples = noise(plane, rng, 0.5, 3, 0.3)
    rgb = mixed(oklch(rng.uniform(0.3, 0.45), 0.06, hue), oklch(rng.uniform(0.65, 0.8), 0.06, hue), 0.5 + 0.6 * ripples)
    return _discs(rgb, plane, rng, (hue - 60, hue), rng.integers(0, 8), 0.5)


def autumn(plane, rng):
    rgb = out_of_focus(plane, rng, (40, 95), (rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.8)), 0.1)
    return _discs(rgb, plane, rng, (40, 100), rng.integers(2, 9), 0.6)


def reeds(plane, rng):
    rgb = out_of_focus(plane, rng, (85, 130), (rng.uniform(0.3, 0.45), rng.uniform(0.65, 0.85)), 0.07)
    for _ in range(rng.integers(5, 11)):
        tone = oklch(rng.uniform(0.35, 0.85), rng.uniform(0.04, 0.1), rng.uniform(85, 130))
        rgb = paint_stem(rgb, plane, rng, rng.uniform(0.012, 0.05), tone, rng.choice((0.015, 0.04, 0.08)))
    return rgb


def studio(plane, rng):
    """A plain backdrop, a little brighter where the lamp falls."""
    tone = rng.uniform(0.25, 0.95)
    base = oklch(tone, rng.uniform(0.0, 0.07), rng.uniform(0, 360))
    cx, cy = rng.uniform(-0.8, 0.8, 2)
    fall = smoothstep(0.2, rng.uniform(1.5, 2.4), np.hypot(plane.x - cx, plane.y - cy)).astype(np.float32)
    return base * (1 - rng.uniform(0.05, 0.3) * fall)[..., None]


# (view, weight, caption phrase)
VIEWS: tuple[Backdrop, ...] = (
    (meadow, 1.8, "before a blurred meadow"),
    (garden, 1.4, "before blurred garden flowers"),
    (forest, 0.8, "before a dark forest"),
    (sky, 1.5, "against the sky"),
    (evening, 0.5, "in the evening light"),
    (water, 0.5, "over water"),
    (autumn, 0.6, "before autumn colours"),
    (reeds, 0.5, "among reeds"),
    (studio, 0.7, "before a plain backdrop"),
)
