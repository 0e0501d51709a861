"""Wings: outlines in polar coordinates about the root, and the layers of a pattern.

A point of a wing has `u` = r / R(theta), 0 at the root and 1 at the margin, and `v`, 0 at the leading edge and 1 at
the trailing edge. A layer maps (wing, image) to an image. Lengths are in units of the forewing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec

import numpy as np

from chrysalis.data.synthetic.plane import Array, colour, inside, over, smoothstep, through


@dataclass(frozen=True)
class Outline:
    """Shape of a wing: angles in degrees above the horizontal, `radii` from the leading to the trailing edge."""

    leading: float
    trailing: float
    radii: tuple[float, ...]
    root: tuple[float, float] = (0.04, 0.0)
    arch: float = 0.0  # bends the leading edge: radians at r = 1
    scallops: tuple[int, float] = (0, 0.0)  # how many, how deep
    tail: tuple[float, float, float] = (0.0, 0.0, 1.0)  # where in v, how long, how wide

    def radius(self, v: Array | np.floating) -> Array:
        """Return the distance of the margin from the root at v."""
        radius = through(self.radii, v)
        if self.scallops[0]:
            radius = radius * (1 - self.scallops[1] * np.abs(np.sin(np.pi * self.scallops[0] * np.clip(v, 0, 1))))
        if self.tail[1]:
            radius = radius + self.tail[1] * np.exp(-(((v - self.tail[0]) / self.tail[2]) ** 2))
        return np.maximum(radius, 0.02).astype(np.float32)

    def offset(self, r: Array | float, v: Array | float) -> tuple:
        """Return (dx, dy) from the root, with dy upwards, of points at distance r on the ray v."""
        theta = np.deg2rad(self.leading + v * (self.trailing - self.leading)) - self.arch * r * r
        return r * np.cos(theta), r * np.sin(theta)


@dataclass
class Wing:
    """A wing evaluated at sample points: polar positions, and `depth`, the signed distance inside the outline."""

    outline: Outline
    x: Array
    y: Array
    pixel: float
    palette: dict[str, Array]
    texture: Array
    opacity: Array | float = 1.0  # below 1 the background shows through
    r: Array = field(init=False)
    u: Array = field(init=False)
    v: Array = field(init=False)
    reach: Array = field(init=False)
    depth: Array = field(init=False)

    def __post_init__(self):
        o = self.outline
        dx, dy = self.x - o.root[0], -(self.y - o.root[1])
        self.dx, self.dy = dx, dy
        self.r = np.sqrt(dx * dx + dy * dy) + 1e-6
        theta = np.arctan2(dy, dx) + o.arch * self.r * self.r
        low, high = np.deg2rad(o.trailing), np.deg2rad(o.leading)
        self.v = (high - theta) / (high - low)
        self.reach = o.radius(self.v)
        self.u = self.r / self.reach
        sides = np.minimum(high - theta, theta - low)
        self.depth = np.minimum(self.reach - self.r, self.r * np.sin(np.clip(sides, -1.5, 1.5)))

    def point(self, u: float, v: float) -> tuple[float, float]:
        """Return (dx, dy) from the root to (u, v)."""
        return self.outline.offset(u * float(self.outline.radius(np.float32(v))), v)

    def away(self, u: float, v: float) -> Array:
        """Return the distance of each sample point from (u, v)."""
        px, py = self.point(u, v)
        return np.hypot(self.dx - px, self.dy - py)


Layer = Callable[[Wing, Array], Array]
Settings = ParamSpec("Settings")


def layer(paint: Callable[Concatenate[Any, Array, Settings], Array]) -> Callable[Settings, Layer]:
    """Turn a function (wing, image, *settings) -> image into a factory of layers: settings -> layer."""

    def with_settings(*args: Settings.args, **kwargs: Settings.kwargs) -> Layer:
        return lambda wing, rgb: paint(wing, rgb, *args, **kwargs)

    return with_settings


@layer
def fill(w: Wing, rgb: Array, name: str) -> Array:
    """The whole wing in one colour."""
    return np.broadcast_to(w.palette[name], rgb.shape).copy()


@layer
def glow(w: Wing, rgb: Array, name: str, near: float, far: float, strength: float = 1.0) -> Array:
    """A colour that grows from u = near to u = far."""
    return over(rgb, w.palette[name], strength * smoothstep(near, far, w.u))


@layer
def half(w: Wing, rgb: Array, name: str, start: float, stop: float, strength: float = 1.0) -> Array:
    """A colour that grows across the wing, from v = start to v = stop."""
    return over(rgb, w.palette[name], strength * smoothstep(start, stop, w.v))


@layer
def margin(w: Wing, rgb: Array, name: str, width: float, waves: tuple[int, float] = (0, 0.0)) -> Array:
    """A rim along the margin, its width modulated by `waves` = (how many, how strongly)."""
    wide = width * (1 + waves[1] * np.cos(2 * np.pi * waves[0] * w.v)) if waves[0] else width
    return over(rgb, w.palette[name], inside(wide - (w.reach - w.r), w.pixel))


@layer
def costa(w: Wing, rgb: Array, name: str, width: float) -> Array:
    """A rim along the leading edge."""
    return over(rgb, w.palette[name], inside(width - w.r * w.v * 1.1, w.pixel))


@layer
def tip(w: Wing, rgb: Array, name: str, start: float, slope: float = 1.2, softness: float = 0.0) -> Array:
    """The outer corner beyond u = start, reaching less far down as v grows."""
    return over(rgb, w.palette[name], inside(w.u - start - slope * w.v, softness or w.pixel * 1.5))


@layer
def veins(w: Wing, rgb: Array, name: str, width: float, count: int = 6, cell: float = 0.46) -> Array:
    """A discal cell and `count` veins that fan out from it to the margin."""
    distance = np.full_like(w.u, 9.0)
    for j in range(count):
        v = (j + 0.7) / (count + 0.4)
        ray = w.r * np.abs(w.v - v) * np.deg2rad(w.outline.leading - w.outline.trailing)
        start = cell - 0.3 * abs(v - 0.35)
        distance = np.minimum(distance, ray + 4 * np.maximum(start - w.u, 0) * w.reach)
    bar = np.abs(w.u - (cell - 0.3 * np.abs(w.v - 0.35))) * w.reach
    bar = bar + 9 * np.maximum(np.abs(w.v - 0.36) - 0.3, 0)
    distance = np.minimum(distance, bar)
    for v in (0.09, 0.62):
        ray = w.r * np.abs(w.v - v) * np.deg2rad(w.outline.leading - w.outline.trailing)
        distance = np.minimum(distance, ray + 4 * np.maximum(w.u - cell, 0))
    taper = width * (0.75 + 0.5 * w.u)
    return over(rgb, w.palette[name], inside(taper - distance, w.pixel))


@layer
def dots(w: Wing, rgb: Array, name: str, places: list[tuple[float, float, float]]) -> Array:
    """Round spots at (u, v, radius)."""
    for u, v, radius in places:
        rgb = over(rgb, w.palette[name], inside(radius - w.away(u, v), w.pixel))
    return rgb


@layer
def margin_dots(w: Wing, rgb: Array, name: str, count: int, u: float, radius: float, stretch: float = 1.0) -> Array:
    """A row of spots along the margin, one between each two veins; `stretch` > 1 makes them crescents."""
    phase = (w.v * count) % 1.0 - 0.5
    width = np.deg2rad(w.outline.leading - w.outline.trailing) / count
    across = phase * width * w.r / stretch
    away = np.hypot(across, (w.u - u) * w.reach)
    return over(rgb, w.palette[name], inside(radius - away, w.pixel) * (w.v > 0.02) * (w.v < 0.99))


@layer
def band(
    w: Wing, rgb: Array, name: str, u: float, width: float, tilt: float = 0.0, bow: float = 0.0, softness: float = 0.0
) -> Array:
    """A band across the wing about u + tilt * v + bow * sin(pi v)."""
    centre = u + tilt * w.v + bow * np.sin(np.pi * np.clip(w.v, 0, 1))
    wobble = 0.02 * np.sin(17 * w.v + 3)
    distance = width / 2 - np.abs(w.u - centre + wobble) * w.reach
    return over(rgb, w.palette[name], inside(distance, softness or w.pixel * 1.3))


@layer
def ray(w: Wing, rgb: Array, name: str, v: float, width: float, start: float, stop: float, drift: float = 0.0) -> Array:
    """A stripe along the wing at v (+ drift * u), between u = start and u = stop, with rounded ends."""
    spread = np.deg2rad(w.outline.leading - w.outline.trailing)
    across = w.r * np.abs(w.v - v - drift * w.u) * spread
    beyond = np.maximum(np.maximum(start - w.u, w.u - stop), 0) * w.reach
    return over(rgb, w.palette[name], inside(width / 2 - np.hypot(across, beyond), w.pixel))


@layer
def eye(
    w: Wing, rgb: Array, u: float, v: float, radius: float, rings: tuple[str, ...], spark: str | None = "white"
) -> Array:
    """An eyespot: rings from outside in, and a spark of light."""
    away = w.away(u, v)
    for k, name in enumerate(rings):
        rgb = over(rgb, w.palette[name], inside(radius * (1 - k / len(rings)) - away, w.pixel))
    if spark:
        glint = w.away(u + 0.02, v - 0.03)
        rgb = over(rgb, w.palette.get(spark, colour("#ffffff")), inside(radius * 0.2 - glint, w.pixel))
    return rgb


@layer
def waves(
    w: Wing, rgb: Array, name: str, places: tuple[float, ...], width: float, depth: float = 0.03, count: int = 5
) -> Array:
    """Wavy lines parallel to the margin, as on many moths."""
    wiggle = depth * np.sin(2 * np.pi * count * w.v + 2 * w.texture)
    for u in places:
        rgb = over(rgb, w.palette[name], inside(width / 2 - np.abs(w.u - u - wiggle) * w.reach, w.pixel))
    return rgb


@layer
def mottle(w: Wing, rgb: Array, name: str, amount: float) -> Array:
    """Dusty scales: a colour that comes and goes with the wing's own noise."""
    return over(rgb, w.palette[name], amount * smoothstep(-0.3, 0.7, w.texture))


@layer
def blotches(w: Wing, rgb: Array, name: str, places: list[tuple[float, float, float]]) -> Array:
    """Irregular patches at (u, v, radius), their rims frayed by the wing's noise."""
    for u, v, radius in places:
        distance = radius * (1 + 0.35 * w.texture) - w.away(u, v)
        rgb = over(rgb, w.palette[name], inside(distance, w.pixel * 1.3))
    return rgb


@layer
def window(w: Wing, rgb: Array, opacity: float) -> Array:
    """Glass: the wing lets the background through (read by the insect painter)."""
    w.opacity = opacity
    return rgb
