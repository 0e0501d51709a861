"""Layers of imaginary wings, in addition to those of wings.py: repeats between the veins, scales, sheen.

A layer maps (wing, rgb) to rgb. The veins of a wing lie at whole numbers of `count * v`, bent a little, so that
spots, streaks and eyespots that use the same count fall between them.
"""

import numpy as np

from chrysalis.data.synthetic.plane import Array, inside, over, smoothstep
from chrysalis.data.synthetic.wings import Wing, layer

BEND = 0.1  # how far veins curve towards the trailing edge


class LitWing(Wing):
    """A wing with finer noise for single scales, and how far it faces the light (0 to 1)."""

    grain: Array
    facing: Array


def _between(w: LitWing, count: float) -> tuple[Array, Array]:
    """Return the position between two veins in [-0.5, 0.5], and their distance in lengths of the forewing."""
    v = w.v + BEND * w.u * (1 - w.u) * np.sin(np.pi * np.clip(w.v, 0, 1))
    width = np.deg2rad(w.outline.leading - w.outline.trailing) / count * w.r
    return (v * count) % 1.0 - 0.5, width


def _line(half_width: Array | float, distance: Array, pixel: float) -> Array:
    """Return the coverage of a line, proportional to its width even below one pixel."""
    return inside(half_width - distance, pixel) - inside(-half_width - distance, pixel)


@layer
def fan_veins(w: LitWing, rgb: Array, name: str, width: float, count: int, cell: float, strength: float = 1.0) -> Array:
    """Veins that fan out from a discal cell, which ends at u = cell, and fork near the margin."""
    between, space = _between(w, count)
    end = cell * (1 - 0.3 * np.abs(w.v - 0.35))
    distance = (0.5 - np.abs(between)) * space + 2.5 * np.maximum(end - w.u, 0) * w.reach
    bar = np.abs(w.u - end) * w.reach + 4 * np.maximum(np.abs(w.v - 0.4) - 0.28, 0) * w.r
    rim = np.minimum(np.abs(w.v - 0.12 - 0.05 * w.u), np.abs(w.v - 0.68 + 0.06 * w.u))
    rim = rim * space * count + 2.5 * np.maximum(w.u - end, 0) * w.reach
    distance = np.minimum(np.minimum(distance, bar), rim)
    return over(rgb, w.palette[name], strength * _line(width * (1.15 - 0.5 * w.u), distance, w.pixel))


@layer
def net_veins(w: LitWing, rgb: Array, name: str, width: float, count: int, rows: int) -> Array:
    """Parallel veins joined by cross-veins, offset from row to row, as on the wings of dragonflies."""
    between, space = _between(w, count)
    row = np.floor(w.v * count)
    rung = np.abs((w.u * rows + 0.5 * (row % 2) + 0.13 * row) % 1.0 - 0.5)
    distance = np.minimum((0.5 - np.abs(between)) * space, (0.5 - rung) / rows * w.reach)
    return over(rgb, w.palette[name], 0.85 * _line(width, distance, w.pixel))


@layer
def spot_row(
    w: LitWing, rgb: Array, name: str, count: int, u: float, radius: float, stretch: float, bow: float
) -> Array:
    """One spot between each two veins; `stretch` > 1 widens them to crescents, < 1 lengthens them to wedges."""
    between, space = _between(w, count)
    along = (w.u - u - bow * np.sin(np.pi * np.clip(w.v, 0, 1))) * w.reach
    curved = along + 0.35 * (stretch > 1) * (between * space) ** 2 / radius
    away = np.hypot(between * space / min(stretch, 1.4), curved * max(stretch, 0.5))
    return over(rgb, w.palette[name], inside(radius - away, w.pixel * 1.2) * (w.v > 0.04) * (w.v < 0.98))


@layer
def eye_row(
    w: LitWing, rgb: Array, names: tuple[str, ...], count: int, u: float, radius: float, start: float, stop: float
) -> Array:
    """A row of eyespots along the margin, from v = start to v = stop; `names` from the outer ring inwards."""
    between, space = _between(w, count)
    away = np.hypot(between * space, (w.u - u) * w.reach)
    index = np.floor(w.v * count)
    present = (index >= np.floor(start * count)) & (index <= np.floor(stop * count))
    grown = radius * (0.75 + 0.25 * np.cos(index * 2.4))
    for k, name in enumerate(names):
        rgb = over(rgb, w.palette[name], present * inside(grown * (1 - k / len(names)) - away, w.pixel))
    return rgb


@layer
def eyespot(
    w: LitWing, rgb: Array, u: float, v: float, radius: float, names: tuple[str, ...], flat: float = 1.0
) -> Array:
    """A large eyespot with a soft halo and a reflection off its centre."""
    px, py = w.point(u, v)
    away = np.hypot(w.dx - px, (w.dy - py) * flat)
    rgb = over(rgb, w.palette[names[0]], 0.45 * smoothstep(radius * 1.45, radius, away))
    for k, name in enumerate(names):
        rgb = over(rgb, w.palette[name], inside(radius * (1 - k / (len(names) + 0.4)) - away, w.pixel))
    glint = np.hypot(w.dx - px + 0.2 * radius, w.dy - py - 0.25 * radius)
    return over(rgb, w.palette["light"], 0.9 * inside(radius * 0.16 - glint, w.pixel))


@layer
def streaks(
    w: LitWing, rgb: Array, name: str, count: int, low: float, high: float, fill: float, softness: float
) -> Array:
    """Fields between the veins painted from u = low to u = high, their ends ragged from one to the next."""
    between, space = _between(w, count)
    ragged = 0.05 * np.sin(np.floor(w.v * count) * 2.7 + count)
    side = inside((0.5 * fill - np.abs(between)) * space, w.pixel * 1.3)
    ends = smoothstep(low, low + softness, w.u + ragged) * smoothstep(high, high - softness, w.u + ragged)
    return over(rgb, w.palette[name], side * ends)


@layer
def wavy_band(
    w: LitWing, rgb: Array, name: str, u: float, width: float, tilt: float, wave: tuple[int, float], softness: float
) -> Array:
    """A band across the wing about u + tilt * v, its rims waving `wave` = (how often, how deep)."""
    centre = u + tilt * (w.v - 0.5) + wave[1] * np.sin(2 * np.pi * wave[0] * w.v + 9 * u)
    wide = width * (1 + 0.25 * np.sin(5 * w.v + 7 * u) + 0.2 * w.texture)
    return over(rgb, w.palette[name], inside(wide / 2 - np.abs(w.u - centre) * w.reach, softness + w.pixel))


@layer
def scalloped_margin(w: LitWing, rgb: Array, name: str, width: float, count: int, depth: float) -> Array:
    """A margin whose inner rim bulges inwards along each vein."""
    between, _ = _between(w, count)
    wide = width * (1 + depth * (4 * between * between - 0.5))
    return over(rgb, w.palette[name], inside(wide - (w.reach - w.r), w.pixel * 1.2))


@layer
def dusting(w: LitWing, rgb: Array, name: str, amount: float, low: float, high: float) -> Array:
    """Single scales of a colour, denser from u = low towards u = high."""
    density = smoothstep(low, high, w.u) * amount
    return over(rgb, w.palette[name], density * smoothstep(-0.35, 0.6, w.grain))


@layer
def marbling(w: LitWing, rgb: Array, name: str, threshold: float, softness: float) -> Array:
    """Irregular islands of a colour where the wing's noise is above a threshold."""
    return over(rgb, w.palette[name], 0.9 * smoothstep(threshold, threshold + softness, w.texture))


@layer
def sheen(w: LitWing, rgb: Array, name: str, u: float, width: float, amount: float, facing: float = 0.5) -> Array:
    """Structural colour about u, stronger on the wing that faces the light and along the veins' pleats."""
    glancing = np.exp(-(((w.u - u - 0.25 * (w.v - facing)) / width) ** 2))
    return over(rgb, w.palette[name], np.clip(amount * glancing * (0.8 + 0.3 * w.texture) * w.facing, 0, 1))


@layer
def clear(w: LitWing, rgb: Array, opacity: float, low: float, high: float) -> Array:
    """Scales become sparse between u = low and u = high, and the background shows through."""
    bare = smoothstep(low, low + 0.06, w.u) * smoothstep(high, high - 0.06, w.u)
    w.opacity = w.opacity * (1 - (1 - opacity) * bare)
    return rgb
