"""Noise and blur on a regular grid of pixels, as products of small matrices."""

from functools import lru_cache

import numpy as np

from chrysalis.data.synthetic.plane import Array, Plane


@lru_cache(maxsize=16)
def pixel_plane(size: int) -> Plane:
    """Return a plane with one sample per pixel, for scenery that antialiases its own edges."""
    return Plane.of_size(size, samples=1)


@lru_cache(maxsize=256)
def _spline(size: int, cells: int) -> Array:
    """Return cubic B-spline weights [size, cells + 3] of `cells` equal cells at the centres of `size` pixels."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(position.astype(int), cells - 1)
    f = position - left
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1) / 6
    matrix = np.zeros((size, cells + 3))
    np.put_along_axis(matrix, left[:, None] + np.arange(4), weights, axis=1)
    return matrix


def noise(rng: np.random.Generator, size: int, scale: float, octaves: int = 2, stretch: float = 1.0) -> Array:
    """Return smooth noise, float32 [size, size] in about [-1, 1].

    Args:
        scale: width of its features in the plane; each octave has half the width and half the amplitude.
        stretch: features are this many times longer vertically than horizontally.
    """
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
