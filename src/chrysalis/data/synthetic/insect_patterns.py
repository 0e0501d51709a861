"""Random wing patterns: the layers of an imaginary species in painting order, and the caption words for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic import wing_layers as layers
from chrysalis.data.synthetic.insect_palettes import Palette
from chrysalis.data.synthetic.wings import Layer


@dataclass
class Pattern:
    """Layers of both wings, the number of veins, and the motifs that a caption may name, the most conspicuous last."""

    count: int
    fore: list[Layer] = field(default_factory=list)
    hind: list[Layer] = field(default_factory=list)
    motifs: list[str] = field(default_factory=list)

    def add(self, motif: str, fore: Sequence[Layer], hind: Sequence[Layer] = ()) -> None:
        """Add the layers of a motif; "" is not named in captions."""
        self.fore += fore
        self.hind += hind
        self.motifs += [motif] * bool(motif)


def random_pattern(style: str, palette: Palette, rng: Generator) -> Pattern:
    """Compose a pattern for a style of wing: "scaled" (butterflies), "dusty" (moths) or "clear" (all others)."""
    pattern = Pattern(int(rng.integers(5, 10)))
    if style == "clear":
        _add_membrane(pattern, rng)
        return pattern
    _add_base(pattern, style, palette, rng)
    weights = np.array([row[style == "dusty"] for row in MOTIFS.values()])
    number = int(rng.choice((1, 2, 3, 4, 5), p=(0.1, 0.25, 0.3, 0.22, 0.13)))
    chosen = rng.choice(len(MOTIFS), size=number, replace=False, p=weights / weights.sum())
    for i in sorted(chosen):
        list(MOTIFS)[i](pattern, palette, rng)
    return pattern


def _add_base(pattern: Pattern, style: str, palette: Palette, rng: Generator) -> None:
    """Add the ground color of the hind wing and gradients on both."""
    pattern.add(
        "", [], [layers.fill(("ground", "second", "third", "bright")[rng.choice(4, p=(0.6, 0.18, 0.14, 0.08))])]
    )
    shade, strength = ("deep", "second", "third", "light")[rng.integers(4)], rng.uniform(0.25, 0.8)
    kind = rng.integers(4)
    if kind == 0:
        both = [layers.gradient(shade, "u", rng.uniform(0.3, 0.6), 1.05, strength)]
    elif kind == 1:
        both = [layers.gradient(shade, "u", rng.uniform(0.4, 0.6), 0.0, strength)]
    elif kind == 2:
        both = [layers.gradient(shade, "v", rng.uniform(0.1, 0.5), 1.0, strength)]
    else:
        both = [_marbling(shade, rng.uniform(-0.1, 0.3), 0.6)]
    if palette.scheme == "iridescent" or rng.random() < 0.08:
        both.append(layers.sheen("sheen", rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.4), rng.uniform(0.6, 1.0)))
    if style == "dusty" or rng.random() < 0.3:
        dust = ("ink", "light", "deep")[rng.integers(3)]
        both.append(layers.dusting(dust, rng.uniform(0.15, 0.6), -0.2, rng.uniform(0.2, 1.0)))
    pattern.add("", both, both)


def _add_membrane(pattern: Pattern, rng: Generator) -> None:
    """Add a clear membrane with veins, perhaps a tint, a band, a dark patch at the leading edge."""
    name, count = ("ink", "deep", "body")[rng.integers(3)], pattern.count
    width = rng.uniform(0.006, 0.011)
    tint = ("ground", "bright")[rng.integers(2)]
    both = [
        layers.fill("glass"),
        layers.gradient(tint, "u", 0.9, -0.1, rng.uniform(0.0, 0.7)),
        layers.sheen("sheen", rng.uniform(0.3, 0.8), 0.35, rng.uniform(0.1, 0.5)),
        layers.clear(rng.uniform(0.35, 0.7), -1, 3),
    ]
    if rng.random() < 0.55:
        both.append(layers.net_veins(name, width, count, int(rng.integers(9, 18))))
    else:
        both.append(layers.fan_veins(name, width * 1.3, count, rng.uniform(0.4, 0.6)))
    both.append(layers.scalloped_margin("ink", rng.uniform(0.008, 0.02), count, 0.0))
    both.append(layers.costa(name, rng.uniform(0.008, 0.022)))
    both.append(layers.dots("ink", [(0.86, 0.06, rng.uniform(0.015, 0.035))]))
    pattern.add("", both, both)
    if rng.random() < 0.35:
        place = rng.uniform(0.4, 0.85), rng.uniform(0.1, 0.25), rng.uniform(-0.2, 0.2)
        band = [layers.wavy_band("ink", *place, (1, 0.0), 0.04)]
        pattern.add("smoky bands", band, band)


# Motifs: each adds its layers to a pattern


def _contrast(palette: Palette, rng: Generator) -> tuple[str, str]:
    """Return a color that stands out from the ground, and the word for it."""
    pale = palette.colors["ground"].mean() > 0.42
    if rng.random() < 0.62:
        return ("ink", "dark") if pale else ("light", "pale")
    return (("bright", "bright"), ("spark", "bright"), ("deep", "dark") if pale else ("third", "pale"))[rng.integers(3)]


def _marbling(name: str, threshold: float, softness: float) -> Layer:
    """Return irregular islands of a color, where the texture of the wing is above a threshold."""
    return layers.gradient(name, "texture", threshold, threshold + softness, 0.9)


def _marbled(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, word = _contrast(palette, rng)
    fore = [_marbling(name, rng.uniform(-0.1, 0.3), rng.uniform(0.12, 0.5))]
    pattern.add(f"{word} marbling", fore, fore if rng.random() < 0.6 else [])


def _blotches(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, word = _contrast(palette, rng)
    number = int(rng.integers(2, 6))
    places = [(rng.uniform(0.15, 0.95), rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.16)) for _ in range(number)]
    pattern.add(f"{word} blotches", [layers.blotches(name, places)], [layers.blotches(name, places[:2])])


def _streaks(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, _ = _contrast(palette, rng)
    low = rng.uniform(0.1, 0.6)
    shape = low, low + rng.uniform(0.2, 0.45), rng.uniform(0.35, 0.85), rng.uniform(0.03, 0.25)
    fore = [layers.streaks(name, pattern.count, *shape)]
    pattern.add("streaks", fore, fore if rng.random() < 0.6 else [])


def _bands(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, word = _contrast(palette, rng)
    number = int(rng.integers(1, 4))
    wave = (int(rng.integers(1, 7)), rng.uniform(0.0, 0.035))
    tilt, softness = rng.uniform(-0.3, 0.3), rng.choice((0.0, 0.0, 0.03, 0.08))
    several = number > 1
    places = np.linspace(rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.86), number) if several else [rng.uniform(0.4, 0.8)]
    width = rng.uniform(0.05, 0.2) / number**0.7
    edge, rim = ("light", "ink", "bright")[rng.integers(3)], rng.random() < 0.35
    fore = []
    for u in places:
        wide = width * rng.uniform(0.6, 1.3)
        if rim:
            fore.append(layers.wavy_band(edge, u, wide + 0.045, tilt, wave, softness))
        fore.append(layers.wavy_band(name, u, wide, tilt, wave, softness))
    pattern.add(f"{word} bands", fore, fore if rng.random() < 0.75 else [])


def _tips(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, word = _contrast(palette, rng)
    pattern.add(
        f"{word} tips", [layers.tip(name, rng.uniform(0.55, 0.82), rng.uniform(0.3, 1.3), rng.choice((0.0, 0.0, 0.12)))]
    )
    if rng.random() < 0.4:
        spots = [(rng.uniform(0.72, 0.9), v, rng.uniform(0.018, 0.035)) for v in (0.1, 0.2, 0.31)]
        pattern.add("", [layers.dots("light", spots)])


def _veins(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name = ("ink", "deep", "second", "light")[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
    if name == "ink" and palette.word.endswith(("orange", "amber")):  # it would resemble a monarch
        name = "second"
    shape = rng.uniform(0.006, 0.017), pattern.count, rng.uniform(0.38, 0.58), rng.uniform(0.5, 1.0)
    both = [layers.fan_veins(name, *shape)]
    pattern.add("dark veins" if name == "ink" else "veins", both, both)


def _margin(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    (name, word), count = _contrast(palette, rng), pattern.count
    width = rng.uniform(0.03, 0.17)
    fore = [layers.scalloped_margin(name, width, count, rng.choice((0.0, 0.4, 0.9)))]
    if rng.random() < 0.35:
        second = ("light", "second", "spark", "bright")[rng.integers(4)]
        fore.append(layers.scalloped_margin(second, width * rng.uniform(0.2, 0.45), count, 0.3))
    pattern.add(f"{word} margin", fore, fore if rng.random() < 0.85 else [])
    if rng.random() < 0.45:
        name = ("light", "light", "bright", "ground")[rng.integers(4)]
        radius = max(min(width * 0.28, 0.024), 0.011)
        both = [layers.spot_row(name, count, 1 - 0.55 * width, radius, rng.choice((0.8, 1.0, 1.4)), 0.0)]
        pattern.add("spotted margin", both, both)


def _costa(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name = ("ink", "bright", "light")[rng.integers(3)]
    pattern.add("a rimmed leading edge", [layers.costa(name, rng.uniform(0.02, 0.05))])


def _spots(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, word = _contrast(palette, rng)
    number = int(rng.integers(1, 5))
    places = [(rng.uniform(0.3, 0.85), rng.uniform(0.12, 0.88), rng.uniform(0.02, 0.075)) for _ in range(number)]
    rims = [layers.dots("ink", [(u, v, radius * 1.45) for u, v, radius in places])] if rng.random() < 0.35 else []
    fore = [*rims, layers.dots(name, places)]
    pattern.add(f"{word} spots", fore, fore if rng.random() < 0.6 else [])


def _spot_rows(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    name, word = _contrast(palette, rng)
    fore = []
    for u in rng.uniform(0.45, 0.92, int(rng.integers(1, 3))):
        shape = rng.uniform(0.016, 0.04), rng.choice((0.55, 0.8, 1.0, 1.5)), rng.uniform(-0.05, 0.08)
        fore.append(layers.spot_row(name, pattern.count, u, *shape))
    pattern.add(f"rows of {word} spots", fore, fore if rng.random() < 0.8 else [])


RINGS = (
    ("ink", "light", "ink"),
    ("light", "ink", "spark"),
    ("bright", "ink", "light"),
    ("deep", "bright", "ink", "spark"),
    ("ink", "bright", "light", "ink"),
    ("light", "deep", "ink"),
)


def _eye_rows(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    start, rings = rng.uniform(0.0, 0.5), RINGS[rng.integers(len(RINGS))]
    shape = rng.uniform(0.74, 0.86), rng.uniform(0.03, 0.06), start, start + 0.6
    hind = [layers.eye_row(rings, pattern.count, *shape)]
    pattern.add("a row of eyespots", hind if rng.random() < 0.5 else [], hind)


def _eyespots(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    rings = RINGS[rng.integers(len(RINGS))]
    u, v, radius = rng.uniform(0.5, 0.76), rng.uniform(0.25, 0.7), rng.uniform(0.07, 0.15)
    fore = [layers.eyespot(u, v, radius, rings, rng.uniform(0.75, 1.3))]
    place = rng.uniform(0.5, 0.72), rng.uniform(0.3, 0.6), radius * rng.uniform(0.6, 1.2)
    hind = [layers.eyespot(*place, rings)]
    where = rng.random()
    pattern.add("eyespots", [] if 0.3 <= where < 0.55 else fore, [] if where < 0.3 else hind)


def _window(pattern: Pattern, palette: Palette, rng: Generator) -> None:
    low = rng.uniform(0.25, 0.5)
    fore = [layers.clear(rng.uniform(0.3, 0.6), low, low + rng.uniform(0.3, 0.5))]
    pattern.add("clear windows", fore, fore if rng.random() < 0.6 else [])


Motif = Callable[[Pattern, Palette, Generator], None]
MOTIFS: dict[Motif, tuple[float, float]] = {  # in painting order: (weight on scaled wings, on dusty ones)
    _marbled: (0.4, 1.2),
    _blotches: (0.4, 1.2),
    _streaks: (1.0, 0.3),
    _bands: (1.3, 2.4),
    _tips: (0.9, 0.0),
    _veins: (2.0, 0.5),
    _margin: (2.2, 0.8),
    _costa: (0.4, 0.0),
    _spots: (1.2, 0.8),
    _spot_rows: (1.2, 0.6),
    _eye_rows: (0.5, 0.3),
    _eyespots: (0.8, 0.8),
    _window: (0.25, 0.2),
}
