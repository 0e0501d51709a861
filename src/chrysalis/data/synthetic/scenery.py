"""Backdrops for imaginary insects: surfaces seen from above, and open views out of focus.

Each is a function (size, rng) -> rgb float32 [size, size, 3] with one sample per pixel.
"""

from collections.abc import Callable

import numpy as np

from chrysalis.data.synthetic.grids import blurred, noise, pixel_plane
from chrysalis.data.synthetic.insect_palettes import oklch
from chrysalis.data.synthetic.plane import Array, inside, over, rotated, smoothstep
from chrysalis.data.synthetic.scenery_objects import paint_flower, paint_leaf, paint_stem

Backdrop = Callable[[int, np.random.Generator], Array]


def _mixed(low: Array, high: Array, along: Array) -> Array:
    return low + (high - low) * np.clip(along, 0, 1)[..., None]


def _discs(rgb: Array, rng: np.random.Generator, hues: tuple[float, float], number: int, glow: float) -> Array:
    """Out-of-focus highlights: discs of about one size, brighter than what lies behind."""
    plane = pixel_plane(rgb.shape[0])
    typical = rng.uniform(0.07, 0.3)
    for _ in range(number):
        cx, cy = rng.uniform(-1.2, 1.2, 2)
        radius, soft = typical * rng.uniform(0.6, 1.4), rng.uniform(0.15, 0.5)
        away = np.hypot(plane.x - np.float32(cx), plane.y - np.float32(cy))
        colour = oklch(rng.uniform(0.6, 0.92), rng.uniform(0.03, 0.14), rng.uniform(*hues))
        cover = smoothstep(radius * (1 + soft), radius * (1 - soft), away)
        rgb = over(rgb, colour, rng.uniform(0.2, glow) * cover)
    return rgb


def _out_of_focus(
    size: int, rng: np.random.Generator, hues: tuple[float, float], tones: tuple[float, float], chroma: float = 0.1
) -> Array:
    """Three blurred colours, brighter above or on one side."""
    plane = pixel_plane(size)
    dark, mid, light = (
        oklch(tone, chroma * rng.uniform(0.5, 1.2), rng.uniform(*hues))
        for tone in (tones[0], rng.uniform(*tones), tones[1])
    )
    angle = rng.normal(0, 0.7)
    slope = np.float32(np.sin(angle)) * plane.x - np.float32(np.cos(angle)) * plane.y
    rgb = _mixed(dark, light, 0.5 + 0.35 * slope + 0.55 * noise(rng, size, rng.uniform(0.5, 1.1), 2))
    return over(rgb, mid, 0.8 * smoothstep(0.0, 0.6, noise(rng, size, rng.uniform(0.4, 0.9), 1)))


def meadow(size, rng):
    rgb = _out_of_focus(size, rng, (105, 150), (rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.82)))
    for _ in range(rng.integers(0, 5)):
        rgb = paint_stem(
            rgb, rng, rng.uniform(0.02, 0.06), oklch(rng.uniform(0.4, 0.8), 0.1, rng.uniform(100, 140)), 0.05
        )
    return _discs(rgb, rng, (60, 150), rng.integers(0, 9), 0.6)


def garden(size, rng):
    hue = rng.uniform(0, 360)
    rgb = _out_of_focus(size, rng, (hue - 30, hue + 60), (rng.uniform(0.34, 0.52), rng.uniform(0.65, 0.85)), 0.095)
    if rng.random() < 0.5:
        green = oklch(rng.uniform(0.4, 0.6), 0.09, rng.uniform(115, 145))
        rgb = over(rgb, green, smoothstep(-0.1, 0.5, noise(rng, size, 0.8, 1)))
    return _discs(rgb, rng, (hue - 40, hue + 70), rng.integers(3, 10), 0.65)


def forest(size, rng):
    rgb = _out_of_focus(size, rng, (95, 165), (rng.uniform(0.18, 0.32), rng.uniform(0.42, 0.6)), 0.07)
    return _discs(rgb, rng, (90, 130), rng.integers(2, 12), 0.5)


def sky(size, rng):
    plane = pixel_plane(size)
    hue, top = rng.normal(248, 9), rng.uniform(0.55, 0.78)
    high, low = oklch(top, rng.uniform(0.06, 0.13), hue), oklch(min(top + 0.2, 0.95), 0.03, hue - 15)
    rgb = _mixed(high, low, 0.5 + 0.45 * plane.y)
    cover = smoothstep(0.0, 0.55, noise(rng, size, 0.9, 4, 0.6) - rng.uniform(-0.1, 0.5))
    return over(rgb, oklch(0.97, 0.01, 80), 0.85 * cover)


def evening(size, rng):
    plane = pixel_plane(size)
    hue = rng.uniform(240, 310)
    rgb = _mixed(oklch(rng.uniform(0.2, 0.35), 0.06, hue), oklch(0.68, 0.11, rng.uniform(20, 80)), 0.35 + 0.5 * plane.y)
    rgb = over(rgb, oklch(0.5, 0.05, hue), 0.5 * smoothstep(-0.2, 0.6, noise(rng, size, 0.9, 2, 0.5)))
    return _discs(rgb, rng, (40, 95), rng.integers(0, 7), 0.55)


def water(size, rng):
    hue = rng.uniform(190, 255)
    ripples = noise(rng, size, 0.5, 3, 0.3)
    rgb = _mixed(
        oklch(rng.uniform(0.3, 0.45), 0.06, hue), oklch(rng.uniform(0.65, 0.8), 0.06, hue), 0.5 + 0.6 * ripples
    )
    return _discs(rgb, rng, (hue - 60, hue), rng.integers(0, 8), 0.5)


def autumn(size, rng):
    rgb = _out_of_focus(size, rng, (40, 95), (rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.8)), 0.1)
    return _discs(rgb, rng, (40, 100), rng.integers(2, 9), 0.6)


def reeds(size, rng):
    rgb = _out_of_focus(size, rng, (85, 130), (rng.uniform(0.3, 0.45), rng.uniform(0.65, 0.85)), 0.07)
    for _ in range(rng.integers(5, 11)):
        tone = oklch(rng.uniform(0.35, 0.85), rng.uniform(0.04, 0.1), rng.uniform(85, 130))
        rgb = paint_stem(rgb, rng, rng.uniform(0.012, 0.05), tone, rng.choice((0.015, 0.04, 0.08)))
    return rgb


def studio(size, rng):
    """A plain backdrop, a little brighter where the lamp falls."""
    plane = pixel_plane(size)
    tone = rng.uniform(0.25, 0.95)
    base = oklch(tone, rng.uniform(0.0, 0.07), rng.uniform(0, 360))
    cx, cy = rng.uniform(-0.8, 0.8, 2)
    fall = smoothstep(0.2, rng.uniform(1.5, 2.4), np.hypot(plane.x - cx, plane.y - cy)).astype(np.float32)
    return base * (1 - rng.uniform(0.05, 0.3) * fall)[..., None]


def paper(size, rng):
    """A specimen plate."""
    base = oklch(rng.uniform(0.87, 0.97), rng.uniform(0.004, 0.03), rng.uniform(60, 120))
    grain = 1 + 0.012 * noise(rng, size, 0.06, 1) + 0.015 * noise(rng, size, 0.8, 1)
    return base * grain[..., None]


def leaf(size, rng):
    base = oklch(rng.uniform(0.4, 0.55), rng.uniform(0.07, 0.12), rng.uniform(110, 150))
    rgb = np.broadcast_to(base * np.float32(0.6), (size, size, 3))
    hue, tone = rng.uniform(105, 150), rng.uniform(0.5, 0.7)
    x, y = rng.uniform(-0.3, 0.3, 2)
    return paint_leaf(rgb, rng, (x, y), rng.uniform(-np.pi, np.pi), 2.4, rng.uniform(0.9, 1.7), (tone, 0.11, hue))


def foliage(size, rng):
    """Overlapping leaves, the lower ones darker and less sharp."""
    hue, tone = rng.uniform(100, 150), rng.uniform(0.48, 0.68)
    rgb = _out_of_focus(size, rng, (hue, hue + 20), (0.24, 0.4), 0.06)
    number = int(rng.integers(4, 9))
    for k in range(number):
        light = tone * (0.6 + 0.4 * (k + 1) / number) * rng.uniform(0.9, 1.1)
        length, centre = rng.uniform(0.5, 1.0), rng.uniform(-1.0, 1.0, 2)
        shape = length, length * rng.uniform(0.25, 0.55)
        turn = rng.uniform(-np.pi, np.pi)
        rgb = paint_leaf(rgb, rng, centre, turn, *shape, (light, 0.1, hue + rng.normal(0, 8)), 0.04 * (1 - k / number))
    return rgb


def litter(size, rng):
    """Fallen leaves on the ground."""
    rgb = _out_of_focus(size, rng, (45, 80), (0.2, 0.42), 0.05)
    for _ in range(rng.integers(4, 9)):
        length, centre = rng.uniform(0.3, 0.7), rng.uniform(-1.0, 1.0, 2)
        colour = rng.uniform(0.35, 0.68), rng.uniform(0.04, 0.1), rng.uniform(45, 90)
        rgb = paint_leaf(rgb, rng, centre, rng.uniform(-3, 3), length, length * rng.uniform(0.3, 0.6), colour)
    return rgb * (1 + 0.08 * noise(rng, size, 0.05, 1))[..., None]


def stone(size, rng):
    tone, hue, chroma = rng.uniform(0.45, 0.75), rng.uniform(40, 280), rng.uniform(0.0, 0.025)
    grain = 0.6 * noise(rng, size, rng.uniform(0.4, 0.9), 4) + 0.35 * noise(rng, size, 0.07, 2)
    rgb = _mixed(oklch(tone - 0.17, chroma, hue), oklch(tone + 0.14, chroma, hue), 0.5 + 0.5 * grain)
    if rng.random() < 0.4:
        patches = smoothstep(0.2, 0.5, noise(rng, size, 0.4, 3))
        rgb = over(rgb, oklch(rng.uniform(0.6, 0.8), rng.uniform(0.03, 0.12), rng.uniform(70, 130)), 0.6 * patches)
    return rgb


def sand(size, rng):
    tone, hue = rng.uniform(0.6, 0.85), rng.uniform(55, 95)
    grain = 0.45 * noise(rng, size, 0.035, 1) + 0.5 * noise(rng, size, 0.9, 3, 0.4)
    return _mixed(oklch(tone - 0.12, 0.05, hue), oklch(tone + 0.1, 0.035, hue + 5), 0.5 + 0.6 * grain)


def bark(size, rng):
    tone, hue, chroma = rng.uniform(0.3, 0.6), rng.uniform(40, 100), rng.uniform(0.01, 0.05)
    furrows = noise(rng, size, rng.uniform(0.14, 0.35), 3, rng.uniform(3, 6))
    rgb = _mixed(oklch(tone - 0.17, chroma, hue), oklch(tone + 0.14, chroma, hue), 0.5 + 0.75 * furrows)
    moss = smoothstep(0.15, 0.6, noise(rng, size, 0.5, 3))
    rgb = over(rgb, oklch(0.6, rng.uniform(0.02, 0.09), rng.uniform(100, 140)), rng.uniform(0, 0.6) * moss)
    return np.ascontiguousarray(rgb.swapaxes(0, 1)) if rng.random() < 0.35 else rgb


def moss(size, rng):
    tufts = 0.6 * noise(rng, size, 0.3, 3) + 0.5 * noise(rng, size, 0.06, 2)
    hue = rng.uniform(100, 135)
    return _mixed(oklch(0.27, 0.06, hue), oklch(rng.uniform(0.58, 0.75), 0.12, hue - 6), 0.45 + 0.6 * tufts)


def wood(size, rng):
    """A board with its grain."""
    plane = pixel_plane(size)
    x, y = rotated(plane.x, plane.y, rng.uniform(-np.pi, np.pi))
    tone, hue = rng.uniform(0.4, 0.78), rng.uniform(45, 85)
    warp = y + 0.12 * noise(rng, size, 0.9, 2) + 0.05 * np.sin(2 * x + rng.uniform(0, 6))
    lines = np.sin(warp * rng.uniform(14, 30)) * 0.5 + 0.4 * np.sin(warp * 47 + 2)
    rgb = _mixed(oklch(tone - 0.09, 0.05, hue), oklch(tone + 0.07, 0.045, hue + 6), 0.5 + 0.4 * lines)
    return rgb * (1 + 0.05 * noise(rng, size, 0.05, 1))[..., None]


def blossom(size, rng):
    """The head of a large flower that fills most of the image."""
    rgb = meadow(size, rng)
    centre = rng.uniform(-0.35, 0.35, 2)
    return paint_flower(rgb, rng, centre, rng.uniform(0.9, 1.4), 0.0)


def blossoms(size, rng):
    """A bed of small flowers, out of focus to the rear."""
    rgb = blurred(foliage(size, rng), 0.03)
    for k in range(rng.integers(4, 8)):
        rgb = paint_flower(rgb, rng, rng.uniform(-1, 1, 2), rng.uniform(0.2, 0.42), 0.05 * (k % 3 == 0))
    return rgb


def gravel(size, rng):
    """Pebbles: cells about scattered points, rounded towards their rims."""
    plane = pixel_plane(size)
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
    return paints[nearest] * (0.35 + 0.65 * rim * (1 + 0.1 * noise(rng, size, 0.06, 1)))[..., None]


# Backdrop, how often, and how captions put it. On a surface an insect casts its shadow.
SURFACES: tuple[tuple[Backdrop, float, str], ...] = (
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
VIEWS: tuple[tuple[Backdrop, float, str], ...] = (
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


def choose(backdrops: tuple[tuple[Backdrop, float, str], ...], rng: np.random.Generator) -> tuple[Backdrop, str]:
    weights = np.array([weight for _, weight, _ in backdrops])
    backdrop, _, phrase = backdrops[rng.choice(len(backdrops), p=weights / weights.sum())]
    return backdrop, phrase
