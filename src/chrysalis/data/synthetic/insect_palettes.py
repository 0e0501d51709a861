"""Random harmonious palettes, composed in OKLCH (Ottosson 2020, "A perceptual color space for image processing")."""

from bisect import bisect
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.plane import Array

HUE_LIMITS = (18, 40, 72, 100, 118, 160, 215, 268, 318, 350)  # degrees, in OKLCH
HUES = ("rose", "red", "orange", "amber", "yellow", "green", "turquoise", "blue", "violet", "magenta", "rose")
SCHEMES = ("earth", "vivid", "pale", "dark", "iridescent", "pastel")


@dataclass(frozen=True)
class Palette:
    """Named colors (sRGB float32 [3] in [0, 1]) and the word that captions use for the whole."""

    colors: dict[str, Array]
    word: str
    scheme: str


def oklch(lightness: float, chroma: float, hue: float) -> Array:
    """Convert OKLCH to sRGB float32 [3], clipped to [0, 1]; `hue` in degrees."""
    a, b = chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    linear = np.array([red, green, blue]).clip(0, 1)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear).astype(np.float32)


def color_word(lightness: float, chroma: float, hue: float) -> str:
    """Return the everyday name of an OKLCH color."""
    hue = hue % 360
    if chroma < 0.035 or lightness < 0.27:
        warm = chroma > 0.018 and 40 < hue < 120
        words = ("black", "grey-brown", "grey", "cream") if warm else ("black", "dark grey", "grey", "white")
        return words[bisect((0.3, 0.5, 0.82), lightness)]
    if 30 < hue < 105 and chroma < 0.11:
        return "dark brown" if lightness < 0.4 else "brown" if lightness < 0.64 else "tan"
    shade = "dark " if lightness < 0.42 else "pale " if lightness > 0.8 and chroma < 0.11 else ""
    return shade + HUES[bisect(HUE_LIMITS, hue)]


def _ground(scheme: str, rng: Generator) -> tuple[float, float, float]:
    """Choose lightness, chroma and hue of a wing's main color."""
    hue = rng.uniform(0, 360)
    if scheme == "earth":
        return rng.uniform(0.38, 0.78), rng.uniform(0.03, 0.1), rng.normal(68, 18)
    if scheme == "vivid":
        hue = rng.uniform(20, 125) if rng.random() < 0.5 else hue
        lightness = 0.64 + 0.16 * np.cos(np.deg2rad(hue - 105)) + rng.normal(0, 0.04)
        return lightness, rng.uniform(0.13, 0.2), hue
    if scheme == "pale":
        return rng.uniform(0.87, 0.96), rng.uniform(0.005, 0.07), rng.normal(95, 50)
    if scheme == "dark":
        return rng.uniform(0.2, 0.32), rng.uniform(0.005, 0.05), hue
    if scheme == "iridescent":
        return rng.uniform(0.34, 0.58), rng.uniform(0.09, 0.17), rng.uniform(140, 330)
    return rng.uniform(0.76, 0.87), rng.uniform(0.05, 0.1), hue


def random_palette(rng: Generator) -> Palette:
    """Choose a color scheme and the colors of a species."""
    scheme = SCHEMES[rng.choice(6, p=(0.25, 0.29, 0.13, 0.13, 0.11, 0.09))]
    lightness, chroma, hue = _ground(scheme, rng)
    dark = lightness < 0.45
    turn = rng.choice((20, -20, 40, -40, 120, 180, -120)) + rng.normal(0, 8)
    accent_hue = hue + (turn if rng.random() < 0.6 else rng.choice((60, 150, 180, 210)))
    ink_hue = rng.choice((60, hue, 280))
    side = rng.choice((-1, 1))
    step = (0.12 if dark else -0.12) * rng.uniform(0.6, 1.6)
    light = oklch(rng.uniform(0.88, 0.97), rng.uniform(0.0, 0.06), rng.normal(90, 25))
    bright = oklch(rng.uniform(0.62, 0.84), rng.uniform(0.11, 0.19), accent_hue)
    colors = {
        "ground": oklch(lightness, chroma, hue),
        "second": oklch(np.clip(lightness + step, 0.15, 0.95), chroma * rng.uniform(0.8, 1.2), hue + side * 18),
        "third": oklch(np.clip(lightness - step, 0.15, 0.97), chroma * rng.uniform(0.7, 1.1), hue - side * 14),
        "ink": oklch(rng.uniform(0.15, 0.27), rng.uniform(0.005, 0.04), ink_hue),
        "deep": oklch(np.clip(lightness - 0.22, 0.16, 0.6), chroma * 0.9 + 0.01, hue - 12),
        "light": light,
        "bright": bright,
        "spark": oklch(rng.uniform(0.6, 0.8), rng.uniform(0.08, 0.17), accent_hue + rng.choice((-150, -60, 60, 150))),
        "sheen": oklch(min(lightness + 0.26, 0.88), 0.15, hue + side * rng.uniform(30, 75)),
        "glass": oklch(rng.uniform(0.84, 0.94), rng.uniform(0.0, 0.04), rng.uniform(0, 360)),
    }
    furs = ("ink", "deep", "deep", "second", "bright") if not dark else ("ink", "ink", "deep", "bright")
    colors["body"] = colors[furs[rng.integers(len(furs))]] * np.float32(rng.uniform(0.75, 1.05))
    colors["ring"] = colors[("light", "ground", "ink", "bright")[rng.integers(4)]]
    return Palette(colors, color_word(lightness, chroma, hue), scheme)
