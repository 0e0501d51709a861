"""Effects of a camera: blur, uneven light, vignette, color temperature, tone, haze and grain."""

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.plane import Array, Plane, blurred, noise

SHOULDER = np.float32(0.82)  # brighter values are compressed, so that pale objects keep their detail


def photographed(rgb: Array, plane: Plane, light: Array, rng: Generator) -> Array:
    """Apply a random camera to rgb [size, size, 3]; `light` [3] points to the lamp. Values may leave [0, 1].

    A quarter of the images do not change: they look like the drawn butterflies.
    """
    if rng.random() < 0.25:
        return rgb
    # 1. settings; zeros have no effect
    exposure = float(np.clip(rng.normal(0.12, 0.16), -0.35, 0.4))  # in stops
    warmth = float(np.clip(rng.normal(0, 0.045), -0.12, 0.12))  # gain of red, loss of blue
    contrast = rng.uniform(-0.06, 0.2)
    saturation = rng.uniform(-0.15, 0.15)
    vignette = rng.uniform(0.0, 0.25) * (rng.random() < 0.4)
    falloff = rng.uniform(0.0, 0.22)  # loss of light across the image, away from the lamp
    softness = rng.uniform(0.0, 0.008) * (rng.random() < 0.3)  # blur of the lens, in units of the plane
    chroma_blur = rng.uniform(0.01, 0.035) * (rng.random() < 0.4)  # as in compressed images
    sharpening = rng.uniform(0.1, 0.5) * (rng.random() < 0.3)
    grain = rng.uniform(0.005, 0.022) * (rng.random() < 0.4)
    haze = rng.uniform(0.0, 0.1) * (rng.random() < 0.2)
    # 2. lens
    rgb = blurred(rgb, softness)
    if chroma_blur:
        grey = rgb.mean(axis=2, keepdims=True)
        rgb = grey + blurred(rgb - grey, chroma_blur)
    if sharpening:
        rgb = rgb + sharpening * (rgb - blurred(rgb, 0.03))
    # 3. light
    gain = 1 - vignette * (plane.x**2 + plane.y**2) / 2
    gain = gain + falloff * (light[0] * plane.x + light[1] * plane.y) * 0.7
    tint = np.array([1 + warmth, 1.0, 1 - warmth]) * 2**exposure
    rgb = np.maximum(rgb * (gain[..., None] * tint.astype(np.float32)), 0)
    # 4. tone
    rgb = np.minimum(rgb, SHOULDER) + (1 - SHOULDER) * np.tanh(np.maximum(rgb - SHOULDER, 0) / (1 - SHOULDER))
    rgb = rgb + contrast * (rgb * rgb * (3 - 2 * rgb) - rgb)
    grey = rgb.mean(axis=2, keepdims=True)
    rgb = grey + (1 + saturation) * (rgb - grey)
    rgb = rgb + haze * (np.float32(0.85) - rgb)
    return rgb + grain * noise(plane, rng, 0.022, 1)[..., None] if grain else rgb
