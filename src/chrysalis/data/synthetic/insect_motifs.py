"""Motifs of random wing patterns.

A motif is a function (palette, number of veins, rng) -> list of (caption words, fore layers, hind layers).
"""

from collections.abc import Callable

import numpy as np

from chrysalis.data.synthetic.insect_layers import (
    clear,
    eye_row,
    eyespot,
    fan_veins,
    marbling,
    scalloped_margin,
    spot_row,
    streaks,
    wavy_band,
)
from chrysalis.data.synthetic.insect_palettes import Palette
from chrysalis.data.synthetic.wings import Layer, blotches, costa, dots, tip

Motif = Callable[[Palette, int, np.random.Generator], list[tuple[str, list[Layer], list[Layer]]]]


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


MOTIFS: dict[str, Motif] = {
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
# Weights of the motifs per style of wing, in painting order.
SCALED = {
    "marbled": 0.4, "blotches": 0.4, "streaks": 1.0, "bands": 1.3, "tips": 0.9, "veins": 2.0, "margin": 2.2,
    "costa": 0.4, "spots": 1.2, "spot rows": 1.2, "eye rows": 0.5, "eyespots": 0.8, "window": 0.25
}  # fmt: skip
DUSTY = {
    "marbled": 1.2, "blotches": 1.2, "streaks": 0.3, "bands": 2.4, "veins": 0.5, "margin": 0.8, "spots": 0.8,
    "spot rows": 0.6, "eye rows": 0.3, "eyespots": 0.8, "window": 0.2
}  # fmt: skip
