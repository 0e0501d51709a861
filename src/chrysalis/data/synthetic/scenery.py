"""Scenery of imaginary insects: leaves, flowers and stems, and views behind the insects.

Objects are painted on rgb float32 [size, size, 3] with one sample per pixel, in or out of focus. Views are functions
(plane, rng) -> rgb: open air out of focus, and a plain studio backdrop.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.insect_palettes import oklch
from chrysalis.data.synthetic.plane import Array, Plane, Point, inside, mixed, noise, over, rotated, smoothstep

Backdrop = tuple[Callable[[Plane, Generator], Array], float, str]  # painter, weight, caption phrase


def _placed(plane: Plane, center: Point, turn: float) -> tuple[Array, Array]:
    """Return the coordinates of the samples in a frame at `center`, turned by `turn` in radians."""
    return rotated(plane.x - np.float32(center[0]), plane.y - np.float32(center[1]), turn)


def paint_leaf(
    rgb: Array, plane: Plane, rng: Generator, place: tuple, shape: Point, color: tuple, blur: float = 0.0
) -> Array:
    """Paint a leaf with midrib and side veins.

    Args:
        place: center and turn.
        shape: half its length and half its width.
        color: in OKLCH.
    """
    (x, y), (length, width) = _placed(plane, *place), shape
    soft = plane.pixel * 1.3 + blur
    y = y + rng.uniform(-0.2, 0.2) * x * x / length
    t = np.clip((x / length + 1) / 2, 0, 1)
    half = width * np.maximum(np.sin(np.pi * t ** rng.uniform(0.7, 1.1)), 0) ** 0.85
    depth = np.minimum(half - np.abs(y), length - np.abs(x))
    tone, chroma, hue = color
    dark, light = oklch(tone - 0.08, chroma, hue + 5), oklch(tone + 0.09, chroma, hue - 8)
    shade = 0.45 + 0.3 * x / length + 0.25 * np.sign(y) * rng.uniform(-1, 1) + 0.35 * noise(plane, rng, 0.6)
    paint = mixed(dark, light, shade)
    pitch = rng.uniform(0.22, 0.4)
    phase = np.abs((x - 0.6 * np.abs(y)) / pitch % 1.0 - 0.5) * pitch * 0.85
    vein = oklch(min(tone + 0.17, 0.92), chroma * 0.75, hue - 10)
    paint = over(paint, vein, 0.5 * inside(0.009 - phase, soft))
    paint = over(paint, vein, 0.8 * inside(0.02 - np.abs(y), soft))
    rgb = rgb * (1 - 0.32 * inside(depth + 0.05, 0.14 + blur))[..., None]
    return over(rgb, paint, inside(depth, soft))


def paint_stem(rgb: Array, plane: Plane, rng: Generator, width: float, color: Array, blur: float) -> Array:
    """Paint a blade or stalk that rises from the lower rim, bent a little and thinner towards its tip."""
    foot, lean, bend = rng.uniform(-1.2, 1.2), rng.normal(0, 0.35), rng.normal(0, 0.15)
    top = rng.uniform(-1.3, 0.3)
    rise = (1 - plane.y) / 2
    axis = foot + lean * rise * 2 + bend * (2 * rise) ** 2
    wide = width * np.clip((plane.y - top) / (1 - top), 0, 1) ** 0.5
    cover = inside(wide - np.abs(plane.x - axis), plane.pixel + blur) * (plane.y > top - blur)
    lit = 0.85 + 0.3 * np.clip((axis - plane.x) / (width + blur), -0.5, 0.5)
    return over(rgb, color * lit[..., None], 0.9 * np.clip(cover, 0, 1).astype(np.float32))


def paint_blur(rgb: Array, plane: Plane, center: Point, radius: float, color: Array) -> Array:
    """Paint something close to the lens, wholly out of focus."""
    away = np.hypot(plane.x - np.float32(center[0]), 0.7 * (plane.y - np.float32(center[1])))
    return over(rgb, color, 0.85 * smoothstep(1.3 * radius, 0.5 * radius, away))


def paint_twig(rgb: Array, plane: Plane, rng: Generator, point: Point, turn: float, width: float) -> Array:
    """Paint a twig in focus through `point`, its length along `turn`, with a knot or a few leaves."""
    x, y = _placed(plane, point, turn)
    green = rng.random() < 0.5
    hues, tones = ((105, 135), (0.42, 0.62)) if green else ((45, 85), (0.3, 0.55))
    hue, tone = rng.uniform(*hues), rng.uniform(*tones)
    color = oklch(tone, rng.uniform(0.03, 0.1), hue)
    if green:
        for _ in range(rng.integers(0, 3)):
            along, side, length = rng.uniform(-1, 1), rng.choice((-1, 1)), rng.uniform(0.18, 0.4)
            angle = turn + side * rng.uniform(0.5, 1.1)
            base = np.array(point) + along * np.array([np.cos(turn), np.sin(turn)])
            center = base + length * np.array([np.cos(angle), np.sin(angle)])
            shape = length, length * rng.uniform(0.25, 0.45)
            rgb = paint_leaf(rgb, plane, rng, (center, angle), shape, (tone, 0.1, hue))
    y = y + rng.normal(0, 0.08) * x * x + 0.15 * width * noise(plane, rng, 0.25, 2)
    wide = width * (1 + 0.2 * x + 0.35 * np.exp(-(((x - rng.uniform(-1, 1)) / 0.06) ** 2)))
    round_ = np.clip(y / wide, -1, 1)
    lit = 0.62 + 0.5 * np.sqrt(1 - round_**2) - 0.3 * round_ * np.cos(turn)
    lit = lit * (1 + 0.15 * noise(plane, rng, 0.09, 2))
    return over(rgb, color * lit[..., None], inside(wide - np.abs(y), plane.pixel * 1.3))


def paint_flower(rgb: Array, plane: Plane, rng: Generator, center: Point, radius: float, blur: float) -> Array:
    """Paint a flower head seen from above or from an angle: rings of petals about a disc."""
    soft = plane.pixel * 1.3 + blur
    x, y = _placed(plane, center, rng.uniform(0, 6.28))
    y = y / np.float32(rng.uniform(0.6, 1.0))
    r, theta = np.hypot(x, y) / radius + 1e-6, np.arctan2(y, x)
    hue, tone, chroma = rng.uniform(-60, 120), rng.uniform(0.6, 0.93), rng.uniform(0.02, 0.16)
    hue = rng.uniform(250, 330) if rng.random() < 0.25 else hue
    petal = oklch(tone, chroma, hue)
    throat = oklch(tone - rng.uniform(-0.05, 0.2), chroma * 1.1, hue + rng.normal(0, 20))
    count, pointed = int(rng.choice((5, 6, 8, 12, 16, 21))), rng.uniform(0, 0.5)
    texture = noise(plane, rng, 0.25, 2)
    for ring in range(int(rng.integers(1, 4))):
        phase = np.abs((theta / (2 * np.pi) * count + 0.5 * ring) % 1.0 - 0.5) * 2
        reach = (1 - 0.24 * ring) * (1 - pointed * phase**1.3 - (0.5 - pointed) * 0.6 * phase**4)
        depth = np.minimum(reach - r, (1 - phase) * r * np.pi / count + 0.3 * (0.7 * (1 - 0.24 * ring) - r)) * radius
        cover = inside(depth, soft)
        paint = mixed(throat, petal, smoothstep(0.2, 0.75, r))
        shade = 0.8 + 0.22 * (1 - phase) + 0.06 * texture + 0.05 * ring
        rgb = rgb * (1 - 0.3 * inside(depth + 0.04, 0.12 + blur))[..., None]
        rgb = over(rgb, np.clip(paint * shade[..., None], 0, 1), cover)
    heart = oklch(rng.uniform(0.3, 0.85), rng.uniform(0.06, 0.16), rng.uniform(50, 125))
    disc = rng.uniform(0.14, 0.34)
    dome = 0.75 + 0.35 * smoothstep(disc, 0.0, r) + 0.14 * noise(plane, rng, 0.06, 1)
    return over(rgb, np.clip(heart * dome[..., None], 0, 1), inside((disc - r) * radius, soft))


def out_of_focus(
    plane: Plane, rng: Generator, hues: tuple[float, float], tones: tuple[float, float], chroma: float = 0.1
) -> Array:
    """Return three blurred colors, brighter above or on one side."""
    dark, mid, light = (
        oklch(tone, chroma * rng.uniform(0.5, 1.2), rng.uniform(*hues))
        for tone in (tones[0], rng.uniform(*tones), tones[1])
    )
    angle = rng.normal(0, 0.7)
    slope = np.float32(np.sin(angle)) * plane.x - np.float32(np.cos(angle)) * plane.y
    rgb = mixed(dark, light, 0.5 + 0.35 * slope + 0.55 * noise(plane, rng, rng.uniform(0.5, 1.1), 2))
    return over(rgb, mid, 0.8 * smoothstep(0.0, 0.6, noise(plane, rng, rng.uniform(0.4, 0.9), 1)))


def _discs(rgb: Array, plane: Plane, rng: Generator, hues: tuple[float, float], number: int, glow: float) -> Array:
    """Paint highlights out of focus: discs of about one size, brighter than what lies behind."""
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
