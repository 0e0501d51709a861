"""The kinds of imaginary insects, and random species of a kind: outlines of wings, body, antennae, legs."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.wings import Outline

Range = tuple[float, float]
WingRanges = tuple[tuple[float, ...], Range, Range]  # mean radii, angles of the leading and the trailing edge


@dataclass(frozen=True)
class InsectKind:
    """Common properties of the species of a kind. Pairs of numbers are ranges to choose from; angles in degrees."""

    name: str
    chance: float  # probability among all insects
    style: str  # wing pattern: scaled | dusty | clear
    fore: WingRanges
    hind: WingRanges
    girth: Range = (0.034, 0.052)
    abdomen: Range = (0.2, 0.28)
    fur: Range = (0.0, 0.3)
    antennae: tuple[str, ...] = ("clubbed",)
    arch: Range = (0.02, 0.2)
    irregularity: float = 0.05
    scallops: float = 0.3  # how often the margin is scalloped
    tail: float = 0.0  # how often the hind wings are tailed
    eyes: float = 0.6  # size of the eyes, in girths
    legs: bool = False
    size: Range = (0.84, 1.0)


INSECT_KINDS = (
    InsectKind("broad-winged", 0.33, "scaled", ((0.82, 0.99, 0.88, 0.79, 0.74, 0.7, 0.6), (42, 60), (-24, -10)),
         ((0.54, 0.69, 0.74, 0.75, 0.73, 0.68, 0.5), (14, 28), (-96, -80)),
         scallops=0.4),
    InsectKind("tailed", 0.12, "scaled", ((0.84, 1.0, 0.9, 0.8, 0.73, 0.68, 0.56), (44, 58), (-22, -10)),
         ((0.5, 0.62, 0.66, 0.7, 0.7, 0.62, 0.46), (12, 24), (-94, -82)),
         tail=1.0, scallops=0.5, size=(0.8, 0.92)),
    InsectKind("long-winged", 0.12, "scaled", ((0.9, 1.07, 1.02, 0.86, 0.68, 0.52), (28, 44), (-18, -6)),
         ((0.62, 0.7, 0.66, 0.58, 0.5, 0.42), (10, 22), (-84, -66)),
         girth=(0.03, 0.042), abdomen=(0.26, 0.36), scallops=0.1, size=(0.84, 0.96)),
    InsectKind("leaf-winged", 0.12, "dusty", ((0.78, 1.02, 0.8, 0.78, 0.72, 0.76, 0.6), (44, 58), (-20, -8)),
         ((0.56, 0.72, 0.68, 0.76, 0.72, 0.74, 0.48), (18, 28), (-94, -80)),
         arch=(0.12, 0.3), irregularity=0.1, scallops=0.7, tail=0.3),
    InsectKind("furry", 0.13, "dusty", ((0.84, 0.98, 0.9, 0.78, 0.7, 0.64, 0.52), (20, 44), (-34, -16)),
         ((0.5, 0.62, 0.66, 0.68, 0.66, 0.6, 0.46), (0, 18), (-92, -72)),
         (0.055, 0.085), (0.22, 0.32), (0.5, 1.0), ("feathered", "thread"), eyes=0.35, legs=True),
    InsectKind("clear-winged", 0.06, "clear", ((0.86, 1.02, 0.94, 0.8, 0.66, 0.52), (20, 44), (-20, -6)),
         ((0.6, 0.7, 0.68, 0.62, 0.54, 0.44), (8, 20), (-84, -64)),
         (0.03, 0.05), (0.26, 0.4), (0.0, 0.2), ("thread", "clubbed"), legs=True),
    InsectKind("slender", 0.06, "clear", ((0.84, 1.0, 1.04, 0.96, 0.8, 0.6), (10, 24), (-10, -1)),
         ((0.84, 0.96, 0.98, 0.92, 0.78, 0.56), (-6, 4), (-30, -18)),
         (0.03, 0.045), (0.62, 0.85), (0.0, 0.1), ("bristle",), (0.0, 0.05), 0.03, 0.0,
         eyes=1.05, legs=True, size=(0.84, 0.98)),
    InsectKind("stout", 0.06, "clear", ((0.8, 0.98, 0.98, 0.86, 0.66, 0.5), (6, 34), (-26, -10)),
         ((0.5, 0.58, 0.56, 0.5, 0.42, 0.36), (-12, 8), (-70, -46)),
         (0.12, 0.19), (0.3, 0.45), (0.1, 1.0), ("thread",), (0.0, 0.1),
         scallops=0.0, eyes=0.5, legs=True, size=(0.9, 1.15)),
)  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """The shapes of one species; lengths in forewings, the thorax at the origin, the head up."""

    fore: Outline
    hind: Outline
    girth: float
    abdomen: float
    fur: float
    rings: float  # stripes across the abdomen per unit of length; 0: none
    antennae: str
    reach: float  # length of the antennae
    spread: float  # how far apart their tips are
    eyes: float
    legs: bool


def _outline(kind: InsectKind, hind: bool, rng: Generator) -> Outline:
    template, leading, trailing = kind.hind if hind else kind.fore
    wobble = 1 + kind.irregularity * rng.standard_normal(len(template))
    place = np.linspace(0, 1, len(template))
    tilt = 1 + rng.normal(0, 0.06) * (place - 0.5) + rng.normal(0, 0.06) * np.cos(np.pi * place * 2)
    radii = np.array(template) * np.maximum(wobble * tilt, 0.7) * (rng.uniform(0.9, 1.12) if hind else 1)
    deep = kind.irregularity * 1.3
    scallops = (int(rng.integers(3, 9)), rng.uniform(0.02, deep)) if rng.random() < kind.scallops else (0, 0.0)
    tail = (0.0, 0.0, 1.0)
    if hind and rng.random() < kind.tail:
        tail = (rng.uniform(0.6, 0.82), rng.uniform(0.14, 0.42), rng.uniform(0.035, 0.075))
    root = (0.03, -0.06 + rng.normal(0, 0.01)) if hind else (0.035, -0.1 + rng.normal(0, 0.01))
    arch = rng.uniform(*kind.arch) * (0.3 if hind else 1)
    return Outline(rng.uniform(*leading), rng.uniform(*trailing), tuple(radii.tolist()), root, arch, scallops, tail)


def random_anatomy(kind: InsectKind, rng: Generator) -> Anatomy:
    """Choose the shapes of a species of this kind."""
    antennae = kind.antennae[rng.integers(len(kind.antennae))]
    reach = {"clubbed": 0.38, "feathered": 0.27, "thread": 0.42, "bristle": 0.09}[antennae] * rng.uniform(0.75, 1.2)
    return Anatomy(
        _outline(kind, False, rng),
        _outline(kind, True, rng),
        rng.uniform(*kind.girth),
        rng.uniform(*kind.abdomen),
        rng.uniform(*kind.fur),
        rng.uniform(14, 30) if rng.random() < 0.6 else 0.0,
        antennae,
        reach,
        rng.uniform(0.45, 1.0),
        kind.eyes * rng.uniform(0.85, 1.2),
        kind.legs,
    )
