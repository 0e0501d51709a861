"""Random wing patterns: which layers an imaginary species has, in what order, and the words for them."""

from dataclasses import dataclass

import numpy as np

from chrysalis.data.synthetic.insect_layers import (
    clear,
    dusting,
    eye_row,
    eyespot,
    fan_veins,
    marbling,
    net_veins,
    scalloped_margin,
    sheen,
    spot_row,
    streaks,
    wavy_band,
)
from chrysalis.data.synthetic.insect_palettes import Palette
from chrysalis.data.synthetic.wings import Layer, blotches, costa, dots, fill, glow, half, tip


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


def _contrast(palette: Palette, rng: np.random.Generator) -> tuple[str, str]:
    """A colour that stands out from the ground, and the word for it."""
    pale = palette.colours["ground"].mean() > 0.42
    if rng.random() < 0.62:
        return ("ink", "dark") if pale else ("light", "pale")
    return (("bright", "bright"), ("spark", "bright"), ("deep", "dark") if pale else ("third", "pale"))[rng.integers(3)]


def _veins(palette, count, rng):
    name = ("ink", "deep", "second", "light")[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
    if name == "ink" and palette.word.endswith(("orange", "amber")):  # a monarch to the eye, whatever its margin
        name = "second"
    layer = fan_veins(name, rng.uniform(0.006, 0.017), count, rng.uniform(0.38, 0.58), rng.uniform(0.5, 1.0))
    motif = "dark veins" if name == "ink" else "veins"
    return [(motif, [layer], [layer])]


def _bands(palette, count, rng):
    name, word = _contrast(palette, rng)
    number = int(rng.integers(1, 4))
    wave = (int(rng.integers(1, 7)), rng.uniform(0.0, 0.035))
    tilt, softness = rng.uniform(-0.3, 0.3), rng.choice((0.0, 0.0, 0.03, 0.08))
    places = (
        np.linspace(rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.86), number) if number > 1 else [rng.uniform(0.4, 0.8)]
    )
    width = rng.uniform(0.05, 0.2) / number**0.7
    edge, rim = ("light", "ink", "bright")[rng.integers(3)], rng.random() < 0.35
    layers = []
    for u in places:
        wide = width * rng.uniform(0.6, 1.3)
        if rim:
            layers.append(wavy_band(edge, u, wide + 0.045, tilt, wave, softness))
        layers.append(wavy_band(name, u, wide, tilt, wave, softness))
    return [(f"{word} bands", layers, layers if rng.random() < 0.75 else [])]


def _streaks(palette, count, rng):
    name, _ = _contrast(palette, rng)
    low = rng.uniform(0.1, 0.6)
    layer = streaks(name, count, low, low + rng.uniform(0.2, 0.45), rng.uniform(0.35, 0.85), rng.uniform(0.03, 0.25))
    return [("streaks", [layer], [layer] if rng.random() < 0.6 else [])]


def _margin(palette, count, rng):
    name, word = _contrast(palette, rng)
    width = rng.uniform(0.03, 0.17)
    layers = [scalloped_margin(name, width, count, rng.choice((0.0, 0.4, 0.9)))]
    if rng.random() < 0.35:
        second = ("light", "second", "spark", "bright")[rng.integers(4)]
        layers.append(scalloped_margin(second, width * rng.uniform(0.2, 0.45), count, 0.3))
    found = [(f"{word} margin", layers, layers if rng.random() < 0.85 else [])]
    if rng.random() < 0.45:
        name = ("light", "light", "bright", "ground")[rng.integers(4)]
        u, radius = 1 - 0.55 * width, min(width * 0.28, 0.024)
        rows = [spot_row(name, count, u, max(radius, 0.011), rng.choice((0.8, 1.0, 1.4)), 0.0)]
        found.append(("spotted margin", rows, rows))
    return found


def _spots(palette, count, rng):
    name, word = _contrast(palette, rng)
    number = int(rng.integers(1, 5))
    places = [(rng.uniform(0.3, 0.85), rng.uniform(0.12, 0.88), rng.uniform(0.02, 0.075)) for _ in range(number)]
    layers = [dots(name, places)]
    if rng.random() < 0.35:
        layers.insert(0, dots("ink", [(u, v, radius * 1.45) for u, v, radius in places]))
    return [(f"{word} spots", layers, layers if rng.random() < 0.6 else [])]


def _spot_rows(palette, count, rng):
    name, word = _contrast(palette, rng)
    layers = [
        spot_row(name, count, u, rng.uniform(0.016, 0.04), rng.choice((0.55, 0.8, 1.0, 1.5)), rng.uniform(-0.05, 0.08))
        for u in rng.uniform(0.45, 0.92, int(rng.integers(1, 3)))
    ]
    return [(f"rows of {word} spots", layers, layers if rng.random() < 0.8 else [])]


def _rings(palette: Palette, rng: np.random.Generator) -> tuple[str, ...]:
    rings = (
        ("ink", "light", "ink"),
        ("light", "ink", "spark"),
        ("bright", "ink", "light"),
        ("deep", "bright", "ink", "spark"),
        ("ink", "bright", "light", "ink"),
        ("light", "deep", "ink"),
    )
    return rings[rng.integers(len(rings))]


def _eyespots(palette, count, rng):
    rings = _rings(palette, rng)
    place = rng.uniform(0.5, 0.76), rng.uniform(0.25, 0.7), rng.uniform(0.07, 0.15)
    spot = eyespot(*place, rings, rng.uniform(0.75, 1.3))
    other = eyespot(rng.uniform(0.5, 0.72), rng.uniform(0.3, 0.6), place[2] * rng.uniform(0.6, 1.2), rings)
    where = rng.random()
    if where < 0.3:
        return [("eyespots", [spot], [])]
    if where < 0.55:
        return [("eyespots", [], [other])]
    return [("eyespots", [spot], []), ("twin eyespots", [], [other])]


def _eye_rows(palette, count, rng):
    start = rng.uniform(0.0, 0.5)
    layer = eye_row(_rings(palette, rng), count, rng.uniform(0.74, 0.86), rng.uniform(0.03, 0.06), start, start + 0.6)
    return [("a row of eyespots", [layer] if rng.random() < 0.5 else [], [layer])]


def _tips(palette, count, rng):
    name, word = _contrast(palette, rng)
    layers = [tip(name, rng.uniform(0.55, 0.82), rng.uniform(0.3, 1.3), rng.choice((0.0, 0.0, 0.12)))]
    found = [(f"{word} tips", layers, [])]
    if rng.random() < 0.4:
        spots = [(rng.uniform(0.72, 0.9), v, rng.uniform(0.018, 0.035)) for v in (0.1, 0.2, 0.31)]
        found.append(("pale tip spots", [dots("light", spots)], []))
    return found


def _marbled(palette, count, rng):
    name, word = _contrast(palette, rng)
    layer = marbling(name, rng.uniform(-0.1, 0.3), rng.uniform(0.12, 0.5))
    return [(f"{word} marbling", [layer], [layer] if rng.random() < 0.6 else [])]


def _blotches(palette, count, rng):
    name, word = _contrast(palette, rng)
    number = int(rng.integers(2, 6))
    places = [(rng.uniform(0.15, 0.95), rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.16)) for _ in range(number)]
    return [(f"{word} blotches", [blotches(name, places)], [blotches(name, places[:2])])]


def _costa(palette, count, rng):
    return [
        ("a rimmed leading edge", [costa(("ink", "bright", "light")[rng.integers(3)], rng.uniform(0.02, 0.05))], [])
    ]


def _window(palette, count, rng):
    low = rng.uniform(0.25, 0.5)
    layer = clear(rng.uniform(0.3, 0.6), low, low + rng.uniform(0.3, 0.5))
    return [("clear windows", [layer], [layer] if rng.random() < 0.6 else [])]


def _clear_pattern(palette: Palette, count: int, rng: np.random.Generator) -> Pattern:
    """Membranes with veins, perhaps a tint, a band, a dark patch at the leading edge."""
    name = ("ink", "deep", "body")[rng.integers(3)]
    width = rng.uniform(0.006, 0.011)
    layers: list[Layer] = [fill("glass"), glow(("ground", "bright")[rng.integers(2)], 0.9, -0.1, rng.uniform(0.0, 0.7))]
    layers += [
        sheen("sheen", rng.uniform(0.3, 0.8), 0.35, rng.uniform(0.1, 0.5)),
        clear(rng.uniform(0.35, 0.7), -1, 3),
    ]
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


MOTIFS = {
    "marbled": _marbled,
    "blotches": _blotches,
    "streaks": _streaks,
    "bands": _bands,
    "tips": _tips,
    "veins": _veins,
    "margin": _margin,
    "costa": _costa,
    "spots": _spots,
    "spot rows": _spot_rows,
    "eye rows": _eye_rows,
    "eyespots": _eyespots,
    "window": _window,
}
# How often each motif is chosen, in the order in which motifs are painted.
SCALED = {
    "marbled": 0.4, "blotches": 0.4, "streaks": 1.0, "bands": 1.3, "tips": 0.9, "veins": 2.0, "margin": 2.2,
    "costa": 0.4, "spots": 1.2, "spot rows": 1.2, "eye rows": 0.5, "eyespots": 0.8, "window": 0.25,
}  # fmt: skip
DUSTY = {
    "marbled": 1.2, "blotches": 1.2, "streaks": 0.3, "bands": 2.4, "veins": 0.5, "margin": 0.8, "spots": 0.8,
    "spot rows": 0.6, "eye rows": 0.3, "eyespots": 0.8, "window": 0.2,
}  # fmt: skip
