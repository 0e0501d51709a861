"""The plane [-1, 1] x [-1, 1] on which images are defined (x right, y down), and functions to paint on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Point = tuple[float, float] | Array
SAMPLES = 2  # per pixel and axis; edges are also softened analytically


@dataclass(frozen=True)
class Plane:
    """Sample points of a square canvas: `x`, `y` float32 [S, S]; `pixel` is the width of one final pixel."""

    x: Array
    y: Array
    pixel: float

    @classmethod
    def of_size(cls, size: int, samples: int = SAMPLES) -> "Plane":
        """Return the plane of an image of `size` pixels, with `samples` per pixel and axis."""
        line = (np.arange(size * samples, dtype=np.float32) + 0.5) / (size * samples) * 2 - 1
        x, y = np.meshgrid(line, line)
        return cls(x, y, 2 / size)

    def settle(self, values: Array) -> Array:
        """Average the super-samples of a [S, S] or [S, S, C] image down to final pixels."""
        size = round(2 / self.pixel)
        return values.reshape(size, SAMPLES, size, SAMPLES, *values.shape[2:]).mean(axis=(1, 3))


def colour(code: str) -> Array:
    """'#d9822b' -> float32 [3] in [0, 1]."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=np.float32)


def smoothstep(low: float, high: float, value: Array) -> Array:
    """Return 0 below `low`, 1 above `high`, and a cubic between; low > high falls instead of rising."""
    z = np.clip((value - low) / (high - low), 0, 1)
    return z * z * (3 - 2 * z)


def inside(distance: Array, softness: float) -> Array:
    """Return the coverage in [0, 1] of a shape from its signed distance, positive inside."""
    return np.clip(distance / softness + 0.5, 0, 1)


def over(base: Array, paint: Array, coverage: Array) -> Array:
    """Composite `paint`, [3] or [S, S, 3], over `base` [S, S, 3] with `coverage` [S, S]."""
    return base + (paint - base) * coverage[..., None]


def through(knots: Sequence[float], z: Array | np.floating) -> Array:
    """Evaluate a Catmull-Rom curve through equally spaced `knots` [K] at z in [0, 1]."""
    points = np.asarray(knots, dtype=np.float32)
    padded = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]]).astype(np.float32)
    position = np.clip(z, 0, 1) * (len(points) - 1)
    left = np.minimum(position.astype(np.int32), len(points) - 2)
    f = position - left
    a, b, c, d = (padded[left + i] for i in range(4))
    return b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))


def cloud(x: Array, y: Array, rng: np.random.Generator, scale: float, octaves: int = 3) -> Array:
    """Return smooth value noise in about [-1, 1]; features are `scale` wide, half as wide in each further octave."""
    total, weight = np.zeros_like(x), 0.0
    for octave in range(octaves):
        lattice = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
        step, gain = scale / 2**octave, 0.5**octave
        gx, gy = x / step + 31.7, y / step + 17.3
        ix, iy = np.floor(gx).astype(np.int32), np.floor(gy).astype(np.int32)
        fx, fy = (smoothstep(0, 1, g - i) for g, i in ((gx, ix), (gy, iy)))
        ix, iy = ix & 63, iy & 63
        jx, jy = (ix + 1) & 63, (iy + 1) & 63
        top = lattice[iy, ix] * (1 - fx) + lattice[iy, jx] * fx
        bottom = lattice[jy, ix] * (1 - fx) + lattice[jy, jx] * fx
        total += gain * (top * (1 - fy) + bottom * fy)
        weight += gain
    return total / weight


def rotated(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return coordinates in a frame turned by `angle` in radians."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x
