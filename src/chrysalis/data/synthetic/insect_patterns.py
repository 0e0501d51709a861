"""Random wing patterns: the layers of an imaginary species in painting order, and the caption words for them."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic import layers
from chrysalis.data.synthetic.insect_palettes import Palette
from chrysalis.data.synthetic.wings import Layer


class RandomPattern:
    """A random wing pattern for a style of wing: "scaled" (butterflies), "dusty" (moths) or "clear" (all others).

    Attributes:
        count: number of veins.
        fore, hind: layers of both wings.
        motifs: what a caption may name, the most conspicuous last.
    """

    def __init__(self, style: str, palette: Palette, rng: Generator):
        self.palette, self.rng, self.count = palette, rng, int(rng.integers(5, 10))
        self.fore: list[Layer] = []
        self.hind: list[Layer] = []
        self.motifs: list[str] = []
        if style == "clear":
            self._add_membrane()
            return
        self._add_base(style)
        weights = np.array(list(MOTIFS.values()))[:, int(style == "dusty")]
        number = int(rng.choice((1, 2, 3, 4, 5), p=(0.1, 0.25, 0.3, 0.22, 0.13)))
        chosen = rng.choice(len(MOTIFS), size=number, replace=False, p=weights / weights.sum())
        for i in sorted(chosen):
            list(MOTIFS)[i](self)

    def _add(self, motif: str, fore: Sequence[Layer], hind: Sequence[Layer] = ()) -> None:
        """Add layers; captions name `motif` unless it is empty."""
        self.fore += fore
        self.hind += hind
        self.motifs += [motif] * bool(motif)

    def _add_fore(self, motif: str, hind_chance: float, *fore: Layer) -> None:
        """Add layers to the forewing, and with a probability of `hind_chance` to the hind wing too."""
        self._add(motif, fore, fore if self.rng.random() < hind_chance else ())

    def _add_base(self, style: str) -> None:
        """Add the ground color of the hind wing and gradients on both."""
        rng = self.rng
        self._add(
            "", [], [layers.fill(("ground", "second", "third", "bright")[rng.choice(4, p=(0.6, 0.18, 0.14, 0.08))])]
        )
        shade, strength = ("deep", "second", "third", "light")[rng.integers(4)], rng.uniform(0.25, 0.8)
        kind = rng.integers(4)
        if kind == 3:
            both = [_islands(shade, rng.uniform(-0.1, 0.3), 0.6)]
        else:
            along, low, high, stop = (("u", 0.3, 0.6, 1.05), ("u", 0.4, 0.6, 0.0), ("v", 0.1, 0.5, 1.0))[kind]
            both = [layers.gradient(shade, along, rng.uniform(low, high), stop, strength)]
        if self.palette.scheme == "iridescent" or rng.random() < 0.08:
            both.append(layers.sheen("sheen", rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.4), rng.uniform(0.6, 1.0)))
        if style == "dusty" or rng.random() < 0.3:
            dust = ("ink", "light", "deep")[rng.integers(3)]
            both.append(layers.dusting(dust, rng.uniform(0.15, 0.6), -0.2, rng.uniform(0.2, 1.0)))
        self._add("", both, both)

    def _add_membrane(self) -> None:
        """Add a clear membrane with veins, perhaps a tint, a band, a dark patch at the leading edge."""
        rng, count = self.rng, self.count
        name, width, tint = ("ink", "deep", "body")[rng.integers(3)], rng.uniform(0.006, 0.011), rng.integers(2)
        both = [
            layers.fill("glass"),
            layers.gradient(("ground", "bright")[tint], "u", 0.9, -0.1, rng.uniform(0.0, 0.7)),
            layers.sheen("sheen", rng.uniform(0.3, 0.8), 0.35, rng.uniform(0.1, 0.5)),
            layers.clear(rng.uniform(0.35, 0.7), -1, 3),
        ]
        if rng.random() < 0.55:
            both.append(layers.net_veins(name, width, count, int(rng.integers(9, 18))))
        else:
            both.append(layers.fan_veins(name, width * 1.3, count, rng.uniform(0.4, 0.6)))
        both.append(layers.margin("ink", rng.uniform(0.008, 0.02), count))
        both.append(layers.costa(name, rng.uniform(0.008, 0.022)))
        both.append(layers.dots("ink", [(0.86, 0.06, rng.uniform(0.015, 0.035))]))
        self._add("", both, both)
        if rng.random() < 0.35:
            place = rng.uniform(0.4, 0.85), rng.uniform(0.1, 0.25), rng.uniform(-0.2, 0.2)
            band = [layers.wavy_band("ink", *place, (1, 0.0), 0.04)]
            self._add("smoky bands", band, band)

    def _contrast(self) -> tuple[str, str]:
        """Return a color that stands out from the ground, and the word for it."""
        pale = self.palette.colors["ground"].mean() > 0.42
        if self.rng.random() < 0.62:
            return ("ink", "dark") if pale else ("light", "pale")
        others = ("bright", "bright"), ("spark", "bright"), ("deep", "dark") if pale else ("third", "pale")
        return others[self.rng.integers(3)]

    def _spots_at(
        self, u: tuple[float, float], v: tuple[float, float], radius: tuple[float, float], number: int
    ) -> list:
        """Return `number` random (u, v, radius), each from its range."""
        return [tuple(self.rng.uniform(*limits) for limits in (u, v, radius)) for _ in range(number)]

    # the motifs

    def marbling(self) -> None:
        name, word = self._contrast()
        islands = _islands(name, self.rng.uniform(-0.1, 0.3), self.rng.uniform(0.12, 0.5))
        self._add_fore(f"{word} marbling", 0.6, islands)

    def blotches(self) -> None:
        name, word = self._contrast()
        places = self._spots_at((0.15, 0.95), (0.05, 0.95), (0.05, 0.16), int(self.rng.integers(2, 6)))
        fore, hind = (layers.dots(name, some, 0.35) for some in (places, places[:2]))
        self._add(f"{word} blotches", [fore], [hind])

    def streaks(self) -> None:
        rng, (name, _) = self.rng, self._contrast()
        low = rng.uniform(0.1, 0.6)
        shape = low, low + rng.uniform(0.2, 0.45), rng.uniform(0.35, 0.85), rng.uniform(0.03, 0.25)
        self._add_fore("streaks", 0.6, layers.streaks(name, self.count, *shape))

    def bands(self) -> None:
        rng, (name, word) = self.rng, self._contrast()
        number = int(rng.integers(1, 4))
        wave = (int(rng.integers(1, 7)), rng.uniform(0.0, 0.035))
        tilt, softness = rng.uniform(-0.3, 0.3), rng.choice((0.0, 0.0, 0.03, 0.08))
        if number > 1:
            places = np.linspace(rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.86), number)
        else:
            places = [rng.uniform(0.4, 0.8)]
        width = rng.uniform(0.05, 0.2) / number**0.7
        edge, rim = ("light", "ink", "bright")[rng.integers(3)], rng.random() < 0.35
        fore = []
        for u in places:
            wide = width * rng.uniform(0.6, 1.3)
            if rim:
                fore.append(layers.wavy_band(edge, u, wide + 0.045, tilt, wave, softness))
            fore.append(layers.wavy_band(name, u, wide, tilt, wave, softness))
        self._add_fore(f"{word} bands", 0.75, *fore)

    def tips(self) -> None:
        rng, (name, word) = self.rng, self._contrast()
        start, slope, softness = rng.uniform(0.55, 0.82), rng.uniform(0.3, 1.3), rng.choice((0.0, 0.0, 0.12))
        self._add(f"{word} tips", [layers.tip(name, start, slope, softness)])
        if rng.random() < 0.4:
            spots = [(rng.uniform(0.72, 0.9), v, rng.uniform(0.018, 0.035)) for v in (0.1, 0.2, 0.31)]
            self._add("", [layers.dots("light", spots)])

    def veins(self) -> None:
        rng = self.rng
        name = ("ink", "deep", "second", "light")[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
        if name == "ink" and self.palette.word.endswith(("orange", "amber")):  # it would resemble a monarch
            name = "second"
        shape = rng.uniform(0.006, 0.017), self.count, rng.uniform(0.38, 0.58), rng.uniform(0.5, 1.0)
        both = [layers.fan_veins(name, *shape)]
        self._add("dark veins" if name == "ink" else "veins", both, both)

    def margin(self) -> None:
        rng, count, (name, word) = self.rng, self.count, self._contrast()
        width = rng.uniform(0.03, 0.17)
        fore = [layers.margin(name, width, count, rng.choice((0.0, 0.4, 0.9)))]
        if rng.random() < 0.35:
            second = ("light", "second", "spark", "bright")[rng.integers(4)]
            fore.append(layers.margin(second, width * rng.uniform(0.2, 0.45), count, 0.3))
        self._add_fore(f"{word} margin", 0.85, *fore)
        if rng.random() < 0.45:
            name = ("light", "light", "bright", "ground")[rng.integers(4)]
            radius = max(min(width * 0.28, 0.024), 0.011)
            both = [layers.spot_row(name, count, 1 - 0.55 * width, radius, rng.choice((0.8, 1.0, 1.4)), 0.0)]
            self._add("spotted margin", both, both)

    def costa(self) -> None:
        name = ("ink", "bright", "light")[self.rng.integers(3)]
        self._add("a rimmed leading edge", [layers.costa(name, self.rng.uniform(0.02, 0.05))])

    def spots(self) -> None:
        name, word = self._contrast()
        places = self._spots_at((0.3, 0.85), (0.12, 0.88), (0.02, 0.075), int(self.rng.integers(1, 5)))
        fore = [layers.dots(name, places)]
        if self.rng.random() < 0.35:
            fore.insert(0, layers.dots("ink", [(u, v, radius * 1.45) for u, v, radius in places]))
        self._add_fore(f"{word} spots", 0.6, *fore)

    def spot_rows(self) -> None:
        rng, (name, word) = self.rng, self._contrast()
        fore = []
        for u in rng.uniform(0.45, 0.92, int(rng.integers(1, 3))):
            shape = rng.uniform(0.016, 0.04), rng.choice((0.55, 0.8, 1.0, 1.5)), rng.uniform(-0.05, 0.08)
            fore.append(layers.spot_row(name, self.count, u, *shape))
        self._add_fore(f"rows of {word} spots", 0.8, *fore)

    def eye_rows(self) -> None:
        rng = self.rng
        start, rings = rng.uniform(0.0, 0.5), RINGS[rng.integers(len(RINGS))]
        shape = rng.uniform(0.74, 0.86), rng.uniform(0.03, 0.06), start, start + 0.6
        hind = [layers.eye_row(rings, self.count, *shape)]
        self._add("a row of eyespots", hind if rng.random() < 0.5 else [], hind)

    def eyespots(self) -> None:
        rng = self.rng
        rings = RINGS[rng.integers(len(RINGS))]
        u, v, radius = rng.uniform(0.5, 0.76), rng.uniform(0.25, 0.7), rng.uniform(0.07, 0.15)
        fore = [layers.eyespot(u, v, radius, rings, rng.uniform(0.75, 1.3))]
        place = rng.uniform(0.5, 0.72), rng.uniform(0.3, 0.6), radius * rng.uniform(0.6, 1.2)
        hind = [layers.eyespot(*place, rings)]
        where = rng.random()
        self._add("eyespots", [] if 0.3 <= where < 0.55 else fore, [] if where < 0.3 else hind)

    def window(self) -> None:
        low = self.rng.uniform(0.25, 0.5)
        window = layers.clear(self.rng.uniform(0.3, 0.6), low, low + self.rng.uniform(0.3, 0.5))
        self._add_fore("clear windows", 0.6, window)


def _islands(name: str, threshold: float, softness: float) -> Layer:
    """Return irregular islands of a color, where the texture of the wing is above a threshold."""
    return layers.gradient(name, "texture", threshold, threshold + softness, 0.9)


RINGS = (
    ("ink", "light", "ink"),
    ("light", "ink", "spark"),
    ("bright", "ink", "light"),
    ("deep", "bright", "ink", "spark"),
    ("ink", "bright", "light", "ink"),
    ("light", "deep", "ink"),
)
MOTIFS = {  # in painting order: (weight on scaled wings, on dusty ones)
    RandomPattern.marbling: (0.4, 1.2),
    RandomPattern.blotches: (0.4, 1.2),
    RandomPattern.streaks: (1.0, 0.3),
    RandomPattern.bands: (1.3, 2.4),
    RandomPattern.tips: (0.9, 0.0),
    RandomPattern.veins: (2.0, 0.5),
    RandomPattern.margin: (2.2, 0.8),
    RandomPattern.costa: (0.4, 0.0),
    RandomPattern.spots: (1.2, 0.8),
    RandomPattern.spot_rows: (1.2, 0.6),
    RandomPattern.eye_rows: (0.5, 0.3),
    RandomPattern.eyespots: (0.8, 0.8),
    RandomPattern.window: (0.25, 0.2),
}
