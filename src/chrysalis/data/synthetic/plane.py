"""The plane [-1, 1] x [-1, 1] on which images are defined (x right, y down), colors, noise and blur on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

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
    @lru_cache(maxsize=16)
    def of_size(cls, size: int, samples: int = SAMPLES) -> "Plane":
        """Return the plane of an image of `size` pixels; scenery that antialiases its own edges needs one sample."""
        line = (np.arange(size * samples, dtype=np.float32) + 0.5) / (size * samples) * 2 - 1
        x, y = np.meshgrid(line, line)
        return cls(x, y, 2 / size)

    def downsampled(self, values: Array) -> Array:
        """Average the samples of a [S, S] or [S, S, C] image to final pixels."""
        size = round(2 / self.pixel)
        return values.reshape(size, SAMPLES, size, SAMPLES, *values.shape[2:]).mean(axis=(1, 3))

    def box(self, low: Array, high: Array, margin: int = 0) -> Array:
        """Return the flat indices of the samples from `low` to `high`, each (x, y), and `margin` samples around."""
        size = len(self.x)
        left, top = ((low + 1) / 2 * size - margin).astype(int).clip(0)
        right, bottom = ((high + 1) / 2 * size + margin + 1).astype(int).clip(0, size)
        return (np.arange(top, bottom)[:, None] * size + np.arange(left, right)).ravel()


def color(code: str) -> Array:
    """Convert a code like '#d9822b' to float32 [3] in [0, 1]."""
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


def mixed(low: Array, high: Array, along: Array) -> Array:
    """Interpolate from color `low` to `high`, each [3], where `along` [S, S] goes from 0 to 1."""
    return low + (high - low) * np.clip(along, 0, 1)[..., None]


def catmull_rom(knots: Sequence[float], z: Array | np.floating) -> Array:
    """Evaluate a Catmull-Rom curve through equally spaced `knots` [K] at z in [0, 1]."""
    points = np.asarray(knots, dtype=np.float32)
    padded = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]]).astype(np.float32)
    position = np.clip(z, 0, 1) * (len(points) - 1)
    left = np.minimum(position.astype(np.int32), len(points) - 2)
    f = position - left
    a, b, c, d = (padded[left + i] for i in range(4))
    return b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))


def cloud(x: Array, y: Array, rng: Generator, scale: float, octaves: int = 3) -> Array:
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


@lru_cache(maxsize=256)
def _spline(size: int, cells: int) -> Array:
    """Return cubic B-spline weights [size, cells + 3] of `cells` equal cells at the centers of `size` pixels."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(position.astype(int), cells - 1)
    f = position - left
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1) / 6
    matrix = np.zeros((size, cells + 3))
    np.put_along_axis(matrix, left[:, None] + np.arange(4), weights, axis=1)
    return matrix


def noise(plane: Plane, rng: Generator, scale: float, octaves: int = 2, stretch: float = 1.0) -> Array:
    """Return smooth noise, float32 [S, S] in about [-1, 1]; faster than `cloud`, and for whole planes only.

    Args:
        scale: width of its features in the plane; each octave has half the width and half the amplitude.
        stretch: features are this many times longer vertically than horizontally.
    """
    size = len(plane.x)
    total = np.zeros((size, size))
    for octave in range(octaves):
        width = scale / 2**octave
        across, down = max(1, round(2 / width)), max(1, round(2 / width / stretch))
        lattice = rng.uniform(-1, 1, (down + 3, across + 3))
        if across < 2.5 * size:  # finer noise would average out within a pixel
            total += 0.5**octave * (_spline(size, down) @ lattice @ _spline(size, across).T)
    return (1.9 * total / (2 - 0.5 ** (octaves - 1))).astype(np.float32)


def blurred(image: Array, sigma: float) -> Array:
    """Blur [S, S] or [S, S, C] with a Gaussian; `sigma` in units of the plane, whose width is 2."""
    size = image.shape[0]
    pixels = sigma * size / 2
    if pixels < 0.25:
        return image
    kernel = _gaussian(size, round(pixels * 32) / 32)
    down = (kernel @ image.reshape(size, -1)).reshape(image.shape)
    across = kernel @ down.swapaxes(0, 1).reshape(size, -1)
    return across.reshape(image.shape).swapaxes(0, 1)


@lru_cache(maxsize=128)
def _gaussian(size: int, sigma: float) -> Array:
    line = np.arange(size)
    kernel = np.exp(-0.5 * ((line[:, None] - line) / sigma) ** 2)
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
