"""Effects of a camera: uneven light, blur, vignette, colour temperature, tone and grain."""

from dataclasses import dataclass, fields

import numpy as np

from chrysalis.data.synthetic.grids import blurred, noise, pixel_plane
from chrysalis.data.synthetic.plane import Array

SHOULDER = np.float32(0.82)  # brighter values are compressed, so that pale things keep their detail


@dataclass(frozen=True)
class Camera:
    """Settings of one photograph; zeros leave a scene unchanged."""

    exposure: float  # in stops
    warmth: float  # red gained, blue lost
    contrast: float
    saturation: float
    vignette: float
    falloff: float  # light lost across the image, away from the lamp
    softness: float  # blur of the lens, in units of the plane
    chroma_blur: float  # colour is coarser than brightness, as in compressed images
    sharpening: float
    grain: float
    haze: float


PLAIN = Camera(*[0.0] * len(fields(Camera)))


def random_camera(rng: np.random.Generator) -> Camera:
    """Choose settings. A quarter of the images are plain, like the drawn butterflies."""
    if rng.random() < 0.25:
        return PLAIN
    return Camera(
        exposure=float(np.clip(rng.normal(0.12, 0.16), -0.35, 0.4)),
        warmth=float(np.clip(rng.normal(0, 0.045), -0.12, 0.12)),
        contrast=rng.uniform(-0.06, 0.2),
        saturation=rng.uniform(-0.15, 0.15),
        vignette=rng.uniform(0.0, 0.25) * (rng.random() < 0.4),
        falloff=rng.uniform(0.0, 0.22),
        softness=rng.uniform(0.0, 0.008) * (rng.random() < 0.3),
        chroma_blur=rng.uniform(0.01, 0.035) * (rng.random() < 0.4),
        sharpening=rng.uniform(0.1, 0.5) * (rng.random() < 0.3),
        grain=rng.uniform(0.005, 0.022) * (rng.random() < 0.4),
        haze=rng.uniform(0.0, 0.1) * (rng.random() < 0.2),
    )


def photographed(rgb: Array, camera: Camera, light: Array, rng: np.random.Generator) -> Array:
    """Apply the camera to rgb [size, size, 3]; `light` [3] points to the lamp. Values may leave [0, 1]."""
    if camera == PLAIN:
        return rgb
    plane = pixel_plane(rgb.shape[0])
    rgb = blurred(rgb, camera.softness)
    if camera.chroma_blur:
        grey = rgb.mean(axis=2, keepdims=True)
        rgb = grey + blurred(rgb - grey, camera.chroma_blur)
    if camera.sharpening:
        rgb = rgb + camera.sharpening * (rgb - blurred(rgb, 0.03))
    gain = 1 - camera.vignette * (plane.x**2 + plane.y**2) / 2
    gain = gain + camera.falloff * (light[0] * plane.x + light[1] * plane.y) * 0.7
    tint = np.array([1 + camera.warmth, 1.0, 1 - camera.warmth]) * 2**camera.exposure
    rgb = np.maximum(rgb * (gain[..., None] * tint.astype(np.float32)), 0)
    rgb = np.minimum(rgb, SHOULDER) + (1 - SHOULDER) * np.tanh(np.maximum(rgb - SHOULDER, 0) / (1 - SHOULDER))
    if camera.contrast:
        curve = rgb * rgb * (3 - 2 * rgb)
        rgb = rgb + camera.contrast * (curve - rgb)
    if camera.saturation:
        grey = rgb.mean(axis=2, keepdims=True)
        rgb = grey + (1 + camera.saturation) * (rgb - grey)
    if camera.haze:
        rgb = rgb + camera.haze * (np.float32(0.85) - rgb)
    if camera.grain:
        rgb = rgb + camera.grain * noise(rng, rgb.shape[0], 0.022, 1)[..., None]
    return rgb
