"""Wings: outlines in polar coordinates about the root, and positions of sample points on a wing.

A point of a wing has `u` = r / R(theta), 0 at the root and 1 at the margin, and `v`, 0 at the leading edge and 1 at
the trailing edge. Lengths are in units of the forewing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec

import numpy as np

from chrysalis.data.synthetic.plane import Array, catmull_rom, over


@dataclass(frozen=True)
class Outline:
    """Shape of a wing: angles in degrees above the horizontal, `radii` from the leading to the trailing edge."""

    leading: float
    trailing: float
    radii: tuple[float, ...]
    root: tuple[float, float] = (0.03, -0.07)
    arch: float = 0.0  # bends the leading edge: radians at r = 1
    scallops: tuple[int, float] = (0, 0.0)  # number, depth
    tail: tuple[float, float, float] = (0.0, 0.0, 1.0)  # position in v, length, width

    def radius(self, v: Array | np.floating) -> Array:
        """Return the distance of the margin from the root at v."""
        radius = catmull_rom(self.radii, v)
        if self.scallops[0]:
            radius = radius * (1 - self.scallops[1] * np.abs(np.sin(np.pi * self.scallops[0] * np.clip(v, 0, 1))))
        if self.tail[1]:
            radius = radius + self.tail[1] * np.exp(-(((v - self.tail[0]) / self.tail[2]) ** 2))
        return np.maximum(radius, 0.02).astype(np.float32)

    def offset(self, r: Array | float, v: Array | float) -> tuple:
        """Return (dx, dy) from the root, with dy upwards, of points at distance r and position v."""
        theta = np.deg2rad(self.leading + v * (self.trailing - self.leading)) - self.arch * r * r
        return r * np.cos(theta), r * np.sin(theta)


class Wing:
    """Sample points x, y [...] on the plane of a wing, and the attributes of a wing that its layers use.

    Attributes:
        dx, dy: offset from the root, with dy upwards.
        r, reach: distances of the point and of the margin from the root.
        u, v: relative position, see above.
        depth: signed distance from the outline, positive inside.
        angle: from the leading to the trailing edge, in radians.
        pixel: width of a pixel of the image.
        palette: colors [3] by name.
        opacity: below 1 the background shows through.
        texture, grain, facing: coarse and fine noise, and how far the wing faces the light (0 to 1.1). They are set
            before layers that use them are painted.
    """

    opacity: Array | float = 1.0
    texture: Array
    grain: Array
    facing: Array

    def __init__(self, outline: Outline, x: Array, y: Array, pixel: float, palette: dict[str, Array]):
        self.x, self.y, self.pixel, self.palette = x, y, pixel, palette
        self.outline = outline
        self.dx, self.dy = x - outline.root[0], -(y - outline.root[1])
        self.r = np.sqrt(self.dx * self.dx + self.dy * self.dy) + 1e-6
        theta = np.arctan2(self.dy, self.dx) + outline.arch * self.r * self.r
        low, high = np.deg2rad(outline.trailing), np.deg2rad(outline.leading)
        self.angle = np.deg2rad(outline.leading - outline.trailing)
        self.v = (high - theta) / (high - low)
        self.reach = outline.radius(self.v)
        self.u = self.r / self.reach
        sides = np.minimum(high - theta, theta - low)
        self.depth = np.minimum(self.reach - self.r, self.r * np.sin(np.clip(sides, -1.5, 1.5)))

    def keep(self, index: Array) -> None:
        """Drop all samples except those at `index`."""
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray):
                setattr(self, name, values[index])

    def offset(self, u: float, v: float) -> tuple[Array, Array]:
        """Return the offsets (x, y) of the sample points from (u, v), with y upwards."""
        px, py = self.outline.offset(u * float(self.outline.radius(np.float32(v))), v)
        return self.dx - px, self.dy - py

    def between(self, count: float) -> tuple[Array, Array]:
        """Return the position between two of `count` curved veins in [-0.5, 0.5], and the distance of the two."""
        v = self.v + 0.1 * self.u * (1 - self.u) * np.sin(np.pi * np.clip(self.v, 0, 1))
        return (v * count) % 1.0 - 0.5, self.angle / count * self.r

    def paint(self, layers: Sequence["Layer"]) -> Array:
        """Return the colors [..., 3] of `layers` over the color "ground"."""
        rgb = np.broadcast_to(self.palette["ground"], (*self.x.shape, 3))
        for layer in layers:
            rgb = layer(self, rgb)
        return rgb


Layer = Callable[[Wing, Array], Array]  # (wing, colors [..., 3]) -> colors
Settings = ParamSpec("Settings")


def layer(paint: Callable[Concatenate[Any, Array, Settings], Array]) -> Callable[Settings, Layer]:
    """Turn a function (wing, rgb, *settings) -> rgb into a factory of layers: settings -> layer."""

    def with_settings(*args: Settings.args, **kwargs: Settings.kwargs) -> Layer:
        return lambda wing, rgb: paint(wing, rgb, *args, **kwargs)

    return with_settings


def color_layer(coverage: Callable[Concatenate[Any, Settings], Array]) -> Callable[Concatenate[str, Settings], Layer]:
    """Turn a function (wing, *settings) -> coverage into a factory of layers: (color name, *settings) -> layer."""

    def with_settings(name: str, *args: Settings.args, **kwargs: Settings.kwargs) -> Layer:
        return lambda wing, rgb: over(rgb, wing.palette[name], coverage(wing, *args, **kwargs))

    return with_settings
