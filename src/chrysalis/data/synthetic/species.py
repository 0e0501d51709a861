"""Species of butterflies and moths, drawn with shadow, two pairs of wings, body and antennae on a background."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.backgrounds import OPEN_AIR, Background
from chrysalis.data.synthetic.plane import Array, Plane, cloud, color, inside, over, rotated, smoothstep
from chrysalis.data.synthetic.wings import Layer, Outline, Wing


class Form(NamedTuple):
    """One coloring of a species: its color word for captions, and the palette of its layers."""

    word: str
    palette: dict[str, str]


def form(word: str, **palette: str) -> Form:
    """Return a coloring from color codes like '#d9822b'; wings start in the color `ground`."""
    return Form(word, palette)


@dataclass(frozen=True)
class Species:
    """One species: shapes, wing layers, colorings, and the backgrounds it is found on."""

    name: str
    traits: str  # caption words after the name
    fore: Outline
    hind: Outline
    fore_layers: tuple[Layer, ...]
    hind_layers: tuple[Layer, ...]
    forms: tuple[Form, ...]
    body: str = "#2a211c"
    girth: float = 0.045
    feathered: bool = False
    size: float = 1.0
    backgrounds: tuple[Background, ...] = OPEN_AIR


def _vary_outline(outline: Outline, degrees: float, stretch: float, rng: Generator) -> Outline:
    """Vary an outline for one individual: raise or lower the wing, lengthen it, change radii by a few percent."""
    radii = tuple(stretch * r * (1 + 0.02 * rng.standard_normal()) for r in outline.radii)
    return replace(outline, leading=outline.leading + degrees, trailing=outline.trailing + degrees, radii=radii)


def _vary_palette(palette: dict[str, str], rng: Generator) -> dict[str, Array]:
    """Vary a palette for one individual: slightly lighter or darker, warmer or cooler."""
    light, warm = rng.uniform(0.9, 1.08), rng.uniform(-0.03, 0.03)
    tint = np.array([1 + warm, 1.0, 1 - warm], dtype=np.float32) * np.float32(light)
    return {name: np.clip(color(code) * tint, 0, 1) for name, code in palette.items()}


def _wings(
    species: Species, palette: dict[str, str], rng: Generator, x: Array, y: Array, pixel: float
) -> list[tuple[Array, Array, Array]]:
    """Return (rgb, coverage, silhouette) of the hind, then of the fore wings; glass covers less than its outline."""
    colors, texture = _vary_palette(palette, rng), cloud(x, y, rng, 0.09, 2)
    stretch, open_fore = 1 + 0.04 * rng.standard_normal(), rng.uniform(-9, 7)
    painted = []
    for outline, layers, swing in (
        (species.hind, species.hind_layers, open_fore * 0.6 + rng.uniform(-3, 3)),
        (species.fore, species.fore_layers, open_fore),
    ):
        wing = Wing(_vary_outline(outline, swing, stretch, rng), x, y, pixel, colors)
        wing.texture = texture
        relief = 0.92 + 0.1 * np.sin(2.6 * np.clip(wing.v, 0, 1) * np.pi) * 0.5 + 0.06 * texture
        rgb = wing.paint(layers) * (relief - 0.16 * smoothstep(0.28, 0.0, wing.u))[..., None]
        silhouette = inside(wing.depth, pixel)
        painted.append((np.clip(rgb, 0, 1), silhouette * wing.opacity, silhouette))
    return painted


def _body(species: Species, x: Array, y: Array, pixel: float) -> tuple[Array, Array]:
    """Paint abdomen, thorax and head as banded ellipses. Return (rgb, coverage)."""
    girth, base = species.girth, color(species.body)
    depth = np.full_like(x, -9.0)
    for cy, half_width, half_length in ((0.2, girth * 0.85, 0.25), (-0.06, girth * 1.25, 0.13), (-0.2, girth, 0.055)):
        scale = np.hypot(x / half_width, (y - cy) / half_length)
        depth = np.maximum(depth, (1 - scale) * half_width)
    lit = np.clip(1.15 - 0.9 * x / girth * 0.5, 0.6, 1.3)
    rings = 1 - 0.25 * smoothstep(0.3, 0.9, np.sin(y * 62)) * smoothstep(0.02, 0.12, y)
    return np.clip(base * (lit * rings)[..., None] + 0.03, 0, 1), inside(depth, pixel)


def _antennae(species: Species, x: Array, y: Array, pixel: float, rng: Generator) -> Array:
    """Return the coverage of the antennae: clubbed for butterflies, feathered for moths."""
    length = rng.uniform(0.30, 0.4) if not species.feathered else rng.uniform(0.2, 0.26)
    spread = rng.uniform(0.5, 0.9)
    rise = np.clip((-0.22 - y) / length, 0, 1)
    curve = 0.02 + spread * length * (0.55 * rise + 0.45 * rise**2)
    slope = np.sqrt(1 + (spread * (0.55 + 0.9 * rise)) ** 2)
    beyond = np.maximum(np.maximum(y + 0.22, -0.22 - length - y), 0)
    away = np.hypot((x - curve) / slope, beyond)
    if species.feathered:
        width = 0.045 * np.sin(np.pi * np.clip(rise * 0.9 + 0.1, 0, 1)) * (0.75 + 0.25 * np.sign(np.sin(rise * 50)))
        return np.maximum(inside(width - away, pixel) * 0.9, inside(0.009 - away, pixel))
    tip_x, tip_y = 0.02 + spread * length, -0.22 - length
    club = 0.024 - np.hypot(x - tip_x, (y - tip_y) * 0.8)
    return inside(np.maximum(np.maximum(0.008, pixel * 0.32) - away, club), pixel)


def draw_species(species: Species, plane: Plane, rng: Generator) -> tuple[Array, Array, str, Background]:
    """Return (rgb [S, S, 3], silhouette [S, S], color word, background), super-sampled."""
    background = species.backgrounds[rng.integers(len(species.backgrounds))]
    rgb = background(plane, rng)
    word, palette = species.forms[rng.integers(len(species.forms))]
    # 1. the frame of the insect
    scale = species.size * rng.uniform(0.86, 1.06) * 0.92
    cx, cy, angle = rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08) + 0.04, rng.normal(0, 0.28)
    roll = rng.uniform(-0.16, 0.16)
    x, y = rotated(plane.x - cx, plane.y - cy, angle)
    x = np.where(x > 0, x / (1 + min(roll, 0)), -x / (1 - max(roll, 0)))
    x, y, pixel = (x / scale).astype(np.float32), (y / scale).astype(np.float32), plane.pixel / scale
    # 2. its parts
    wings = _wings(species, palette, rng, x, y, pixel)
    body, body_cover = _body(species, x, y, pixel)
    antennae = _antennae(species, x, y, pixel, rng)
    # 3. the image
    silhouette = np.maximum(np.maximum(wings[0][2], wings[1][2]), np.maximum(body_cover, antennae))
    rgb = over(rgb, color("#14120f"), 0.34 * _soft_shadow(silhouette))
    for paint, cover, _ in wings:
        rgb = over(rgb, paint, cover)
    rgb = over(rgb, color(species.body) * 0.8 if species.feathered else color("#1d1714"), antennae)
    return over(rgb, body, body_cover), silhouette, word, background


def _soft_shadow(silhouette: Array) -> Array:
    """Move the silhouette down and right and blur it by two box averages per axis."""
    size = silhouette.shape[0]
    shift, reach = round(0.035 * size / 2), max(1, round(0.03 * size / 2))
    shadow = np.roll(silhouette, (shift, shift), axis=(0, 1))
    for _ in range(4):  # down, across, down, across
        summed = np.pad(shadow, [(reach + 1, reach), (0, 0)], mode="edge").cumsum(axis=0)
        shadow = ((summed[2 * reach + 1 :] - summed[:size]) / (2 * reach + 1)).T
    return shadow
