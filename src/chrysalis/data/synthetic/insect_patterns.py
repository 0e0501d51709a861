"""Random wing patterns: the layers of an imaginary species in painting order, and the caption words for them."""

from dataclasses import dataclass

import numpy as np

from chrysalis.data.synthetic.insect_layers import (
    clear,
    dusting,
    fan_veins,
    marbling,
    net_veins,
    scalloped_margin,
    sheen,
    wavy_band,
)
from chrysalis.data.synthetic.insect_motifs import DUSTY, MOTIFS, SCALED
from chrysalis.data.synthetic.insect_palettes import Palette
from chrysalis.data.synthetic.wings import Layer, costa, dots, fill, glow, half


@dataclass(frozen=True)
class Pattern:
    """Layers of both wings, and the motifs that a caption may name, the most conspicuous first."""

    fore: tuple[Layer, ...]
    hind: tuple[Layer, ...]
    motifs: tuple[str, ...]
    count: int


def random_pattern(style: str, palette: Palette, rng: np.random.Generator) -> Pattern:
    """Compose a pattern for a style of wing: "scaled" (butterflies), "dusty" (moths) or "clear" (all others)."""
    count = int(rng.integers(5, 10))
    if style == "clear":
        return _clear_pattern(palette, count, rng)
    motifs: list[str] = []
    fore, hind = _base(style, palette, rng)
    menu = DUSTY if style == "dusty" else SCALED
    names = list(menu)
    chances = np.array([menu[name] for name in names])
    wanted = int(rng.choice((1, 2, 3, 4, 5), p=(0.1, 0.25, 0.3, 0.22, 0.13)))
    order = [names[i] for i in rng.choice(len(names), size=wanted, replace=False, p=chances / chances.sum())]
    for name in sorted(order, key=names.index):
        for motif, fore_layers, hind_layers in MOTIFS[name](palette, count, rng):
            motifs.append(motif)
            fore += fore_layers
            hind += hind_layers
    return Pattern(tuple(fore), tuple(hind), tuple(motifs), count)


def _base(style: str, palette: Palette, rng: np.random.Generator) -> tuple[list[Layer], list[Layer]]:
    """Ground colours and the gradients on them."""
    hind_ground = ("ground", "second", "third", "bright")[rng.choice(4, p=(0.6, 0.18, 0.14, 0.08))]
    fore, hind = [fill("ground")], [fill(hind_ground)]
    shade, strength = ("deep", "second", "third", "light")[rng.integers(4)], rng.uniform(0.25, 0.8)
    kind = rng.integers(4)
    if kind == 0:
        gradient = glow(shade, rng.uniform(0.3, 0.6), 1.05, strength)
    elif kind == 1:
        gradient = glow(shade, rng.uniform(0.4, 0.6), 0.0, strength)
    elif kind == 2:
        gradient = half(shade, rng.uniform(0.1, 0.5), 1.0, strength)
    else:
        gradient = marbling(shade, rng.uniform(-0.1, 0.3), 0.6)
    fore.append(gradient)
    hind.append(gradient)
    if palette.scheme == "iridescent" or rng.random() < 0.08:
        gleam = sheen("sheen", rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.4), rng.uniform(0.6, 1.0))
        fore.append(gleam)
        hind.append(gleam)
    if style == "dusty" or rng.random() < 0.3:
        grains = dusting(("ink", "light", "deep")[rng.integers(3)], rng.uniform(0.15, 0.6), -0.2, rng.uniform(0.2, 1.0))
        fore.append(grains)
        hind.append(grains)
    return fore, hind


def _clear_pattern(palette: Palette, count: int, rng: np.random.Generator) -> Pattern:
    """Membranes with veins, perhaps a tint, a band, a dark patch at the leading edge."""
    name = ("ink", "deep", "body")[rng.integers(3)]
    width = rng.uniform(0.006, 0.011)
    layers: list[Layer] = [fill("glass"), glow(("ground", "bright")[rng.integers(2)], 0.9, -0.1, rng.uniform(0.0, 0.7))]
    layers += [sheen("sheen", rng.uniform(0.3, 0.8), 0.35, rng.uniform(0.1, 0.5)), clear(rng.uniform(0.35, 0.7), -1, 3)]
    if rng.random() < 0.55:
        veins = net_veins(name, width, count, int(rng.integers(9, 18)))
    else:
        veins = fan_veins(name, width * 1.3, count, rng.uniform(0.4, 0.6))
    layers += [
        veins,
        scalloped_margin("ink", rng.uniform(0.008, 0.02), count, 0.0),
        costa(name, rng.uniform(0.008, 0.022)),
    ]
    layers.append(dots("ink", [(0.86, 0.06, rng.uniform(0.015, 0.035))]))
    motifs = ["clear"]
    if rng.random() < 0.35:
        place = rng.uniform(0.4, 0.85), rng.uniform(0.1, 0.25), rng.uniform(-0.2, 0.2)
        layers.append(wavy_band("ink", *place, (1, 0.0), 0.04))
        motifs.append("smoky bands")
    return Pattern(tuple(layers), tuple(layers), tuple(motifs), count)
