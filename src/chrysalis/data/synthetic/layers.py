"""The layers of wing patterns.

The veins of random wings lie at whole numbers of `count * v`, bent a little, so that spots, streaks and eyespots that
use the same count fall between them.
"""

import numpy as np

from chrysalis.data.synthetic.plane import Array, color, inside, over, smoothstep
from chrysalis.data.synthetic.wings import Wing, color_layer, layer

Rings = tuple[str, ...]  # color names, from outside in


@layer
def fill(w: Wing, rgb: Array, name: str) -> Array:
    """The whole wing in one color."""
    return np.broadcast_to(w.palette[name], rgb.shape)


@layer
def window(w: Wing, rgb: Array, opacity: float) -> Array:
    """A translucent wing."""
    w.opacity = opacity
    return rgb


@layer
def clear(w: Wing, rgb: Array, opacity: float, low: float, high: float) -> Array:
    """Scales become sparse between u = low and u = high, and the background shows through."""
    bare = smoothstep(low, low + 0.06, w.u) * smoothstep(high, high - 0.06, w.u)
    w.opacity = w.opacity * (1 - (1 - opacity) * bare)
    return rgb


@color_layer
def gradient(w: Wing, along: str, low: float, high: float, strength: float = 1.0) -> Array:
    """A color that grows with an attribute of the wing (u, v or texture), from `low` to `high`."""
    return strength * smoothstep(low, high, getattr(w, along))


@color_layer
def dusting(w: Wing, amount: float, low: float, high: float) -> Array:
    """Single scales, denser from u = low towards u = high."""
    density = smoothstep(low, high, w.u) * amount
    return density * smoothstep(-0.35, 0.6, w.grain)


@color_layer
def sheen(w: Wing, u: float, width: float, amount: float) -> Array:
    """Structural color about u, stronger on the wing that faces the light."""
    glancing = np.exp(-(((w.u - u - 0.25 * (w.v - 0.5)) / width) ** 2))
    return np.clip(amount * glancing * (0.8 + 0.3 * w.texture) * w.facing, 0, 1)


# edges


@color_layer
def margin(w: Wing, width: float, count: int = 0, depth: float = 0.0) -> Array:
    """A rim along the margin; along each of `count` veins it bulges inwards."""
    if not count:
        return inside(width - (w.reach - w.r), w.pixel)
    between, _ = w.between(count)
    return inside(width * (1 + depth * (4 * between * between - 0.5)) - (w.reach - w.r), w.pixel * 1.2)


@color_layer
def costa(w: Wing, width: float) -> Array:
    """A rim along the leading edge."""
    return inside(width - w.r * w.v * 1.1, w.pixel)


@color_layer
def tip(w: Wing, start: float, slope: float, softness: float = 0.0) -> Array:
    """The outer corner beyond u = start + slope * v."""
    return inside(w.u - start - slope * w.v, softness or w.pixel * 1.5)


# veins, and what lies between them


def _line(half_width: Array | float, distance: Array, pixel: float) -> Array:
    """Return the coverage of a line, proportional to its width even below one pixel."""
    return inside(half_width - distance, pixel) - inside(-half_width - distance, pixel)


@color_layer
def veins(w: Wing, width: float, count: int = 6) -> Array:
    """A discal cell and `count` straight veins that fan out from it to the margin."""
    cell = 0.46
    distance = np.full_like(w.u, 9.0)
    for j in range(count):
        v = (j + 0.7) / (count + 0.4)
        start = cell - 0.3 * abs(v - 0.35)
        distance = np.minimum(distance, w.r * np.abs(w.v - v) * w.angle + 4 * np.maximum(start - w.u, 0) * w.reach)
    bar = np.abs(w.u - (cell - 0.3 * np.abs(w.v - 0.35))) * w.reach
    distance = np.minimum(distance, bar + 9 * np.maximum(np.abs(w.v - 0.36) - 0.3, 0))
    for v in (0.09, 0.62):
        distance = np.minimum(distance, w.r * np.abs(w.v - v) * w.angle + 4 * np.maximum(w.u - cell, 0))
    return inside(width * (0.75 + 0.5 * w.u) - distance, w.pixel)


@color_layer
def fan_veins(w: Wing, width: float, count: int, cell: float, strength: float = 1.0) -> Array:
    """Curved veins that fan out from a discal cell, which ends at u = cell, and fork near the margin."""
    between, space = w.between(count)
    end = cell * (1 - 0.3 * np.abs(w.v - 0.35))
    distance = (0.5 - np.abs(between)) * space + 2.5 * np.maximum(end - w.u, 0) * w.reach
    bar = np.abs(w.u - end) * w.reach + 4 * np.maximum(np.abs(w.v - 0.4) - 0.28, 0) * w.r
    rim = np.minimum(np.abs(w.v - 0.12 - 0.05 * w.u), np.abs(w.v - 0.68 + 0.06 * w.u))
    rim = rim * space * count + 2.5 * np.maximum(w.u - end, 0) * w.reach
    return strength * _line(width * (1.15 - 0.5 * w.u), np.minimum(np.minimum(distance, bar), rim), w.pixel)


@color_layer
def net_veins(w: Wing, width: float, count: int, rows: int) -> Array:
    """Parallel veins joined by cross-veins, offset from row to row, as on the wings of dragonflies."""
    between, space = w.between(count)
    index = np.floor(w.v * count)
    rung = np.abs((w.u * rows + 0.5 * (index % 2) + 0.13 * index) % 1.0 - 0.5)
    distance = np.minimum((0.5 - np.abs(between)) * space, (0.5 - rung) / rows * w.reach)
    return 0.85 * _line(width, distance, w.pixel)


@color_layer
def streaks(w: Wing, count: int, low: float, high: float, filled: float, softness: float) -> Array:
    """Fields between the veins from u = low to u = high, their ends ragged from one to the next."""
    between, space = w.between(count)
    ragged = 0.05 * np.sin(np.floor(w.v * count) * 2.7 + count)
    side = inside((0.5 * filled - np.abs(between)) * space, w.pixel * 1.3)
    return side * (smoothstep(low, low + softness, w.u + ragged) * smoothstep(high, high - softness, w.u + ragged))


# bands and rays


@color_layer
def band(w: Wing, u: float, width: float, tilt: float = 0.0, bow: float = 0.0) -> Array:
    """A band across the wing about u + tilt * v + bow * sin(pi v)."""
    center = u + tilt * w.v + bow * np.sin(np.pi * np.clip(w.v, 0, 1))
    wobble = 0.02 * np.sin(17 * w.v + 3)
    return inside(width / 2 - np.abs(w.u - center + wobble) * w.reach, w.pixel * 1.3)


@color_layer
def wavy_band(w: Wing, u: float, width: float, tilt: float, wave: tuple[int, float], softness: float) -> Array:
    """A band across the wing about u + tilt * v, its rims waving `wave` = (number, depth)."""
    center = u + tilt * (w.v - 0.5) + wave[1] * np.sin(2 * np.pi * wave[0] * w.v + 9 * u)
    wide = width * (1 + 0.25 * np.sin(5 * w.v + 7 * u) + 0.2 * w.texture)
    return inside(wide / 2 - np.abs(w.u - center) * w.reach, softness + w.pixel)


@color_layer
def ray(w: Wing, v: float, width: float, start: float, stop: float, drift: float = 0.0) -> Array:
    """A stripe along the wing at v + drift * u, between u = start and u = stop, with rounded ends."""
    across = w.r * np.abs(w.v - v - drift * w.u) * w.angle
    beyond = np.maximum(np.maximum(start - w.u, w.u - stop), 0) * w.reach
    return inside(width / 2 - np.hypot(across, beyond), w.pixel)


@layer
def waves(
    w: Wing, rgb: Array, name: str, places: tuple[float, ...], width: float, depth: float, count: int = 5
) -> Array:
    """Wavy lines parallel to the margin at each u of `places`."""
    wiggle = depth * np.sin(2 * np.pi * count * w.v + 2 * w.texture)
    for u in places:
        rgb = over(rgb, w.palette[name], inside(width / 2 - np.abs(w.u - u - wiggle) * w.reach, w.pixel))
    return rgb


# spots and eyespots


@layer
def dots(w: Wing, rgb: Array, name: str, places: list[tuple[float, float, float]], fray: float = 0.0) -> Array:
    """Spots at (u, v, radius), round or, with `fray` > 0, with rims that follow the wing's texture."""
    for u, v, radius in places:
        rim = radius * (1 + fray * w.texture) if fray else radius
        rgb = over(rgb, w.palette[name], inside(rim - np.hypot(*w.offset(u, v)), w.pixel * (1.3 if fray else 1)))
    return rgb


@color_layer
def row(w: Wing, count: int, u: float, radius: float, stretch: float = 1.0) -> Array:
    """A row of `count` spots at u; `stretch` > 1 widens them to crescents."""
    across = ((w.v * count) % 1.0 - 0.5) * (w.angle / count) * w.r / stretch
    away = np.hypot(across, (w.u - u) * w.reach)
    return inside(radius - away, w.pixel) * (w.v > 0.02) * (w.v < 0.99)


@color_layer
def spot_row(w: Wing, count: int, u: float, radius: float, stretch: float, bow: float) -> Array:
    """A bowed row of spots; `stretch` > 1 widens them to crescents, < 1 lengthens them to wedges."""
    between, space = w.between(count)
    along = (w.u - u - bow * np.sin(np.pi * np.clip(w.v, 0, 1))) * w.reach
    curved = along + 0.35 * (stretch > 1) * (between * space) ** 2 / radius
    away = np.hypot(between * space / min(stretch, 1.4), curved * max(stretch, 0.5))
    return inside(radius - away, w.pixel * 1.2) * (w.v > 0.04) * (w.v < 0.98)


def _rings(w: Wing, rgb: Array, names: Rings, radius: Array | float, away: Array, core: float = 0.0) -> Array:
    """Paint concentric rings; `core` widens the last, relative to the others."""
    for k, name in enumerate(names):
        rgb = over(rgb, w.palette[name], inside(radius * (1 - k / (len(names) + core)) - away, w.pixel))
    return rgb


@layer
def eye(w: Wing, rgb: Array, u: float, v: float, radius: float, names: Rings, glint: bool = True) -> Array:
    """An eyespot of rings, perhaps with a white reflection."""
    rgb = _rings(w, rgb, names, radius, np.hypot(*w.offset(u, v)))
    if not glint:
        return rgb
    return over(rgb, color("#ffffff"), inside(radius * 0.2 - np.hypot(*w.offset(u + 0.02, v - 0.03)), w.pixel))


@layer
def eyespot(w: Wing, rgb: Array, u: float, v: float, radius: float, names: Rings, flat: float = 1.0) -> Array:
    """A large eyespot with a soft halo and a reflection off its center."""
    x, y = w.offset(u, v)
    away = np.hypot(x, y * flat)
    rgb = over(rgb, w.palette[names[0]], 0.45 * smoothstep(radius * 1.45, radius, away))
    rgb = _rings(w, rgb, names, radius, away, 0.4)
    glint = np.hypot(x + 0.2 * radius, y - 0.25 * radius)
    return over(rgb, w.palette["light"], 0.9 * inside(radius * 0.16 - glint, w.pixel))


@layer
def eye_row(w: Wing, rgb: Array, names: Rings, count: int, u: float, radius: float, start: float, stop: float) -> Array:
    """A row of eyespots along the margin, from v = start to v = stop."""
    between, space = w.between(count)
    index = np.floor(w.v * count)
    present = (index >= np.floor(start * count)) & (index <= np.floor(stop * count))
    away = np.where(present, np.hypot(between * space, (w.u - u) * w.reach), np.inf)
    return _rings(w, rgb, names, radius * (0.75 + 0.25 * np.cos(index * 2.4)), away)
