"""Scenes of imaginary insects: each image has its own random species, pose, scenery and light."""

from dataclasses import dataclass, replace

import numpy as np

from chrysalis.data.synthetic.camera import photographed, random_camera
from chrysalis.data.synthetic.grids import blurred
from chrysalis.data.synthetic.insect_appearance import appearance, butterfly_appearances, distances, gap
from chrysalis.data.synthetic.insect_bodies import paint_body, paint_legs
from chrysalis.data.synthetic.insect_kinds import CHANCES, KINDS, Anatomy, Kind, random_anatomy
from chrysalis.data.synthetic.insect_palettes import Palette, oklch, random_palette
from chrysalis.data.synthetic.insect_patterns import Pattern, random_pattern
from chrysalis.data.synthetic.insect_poses import Pose, random_pose
from chrysalis.data.synthetic.insect_wings import paint_pair
from chrysalis.data.synthetic.plane import Array, Plane
from chrysalis.data.synthetic.scenery_objects import paint_blur, paint_flower, paint_twig
from chrysalis.data.synthetic.scenery_surfaces import SURFACES
from chrysalis.data.synthetic.scenery_views import VIEWS


@dataclass(frozen=True)
class ImaginarySpecies:
    """A random species: its kind, colours, wing pattern and anatomy."""

    kind: Kind
    palette: Palette
    pattern: Pattern
    anatomy: Anatomy
    tone: Array  # mean colour of the wings


class Canvas:
    """Super-sampled, premultiplied colour, coverage and silhouette of everything in front of the backdrop."""

    def __init__(self, plane: Plane):
        self.plane = plane
        samples = plane.x.size
        self.rgb = np.zeros((samples, 3), dtype=np.float32)
        self.cover, self.shape = np.zeros(samples, dtype=np.float32), np.zeros(samples, dtype=np.float32)

    def lay(self, index: Array, rgb: Array, cover: Array, shape: Array | None = None) -> None:
        """Composite colours [N, 3] with coverage [N] over the samples at flat indices [N]."""
        rest = 1 - cover
        self.rgb[index] = self.rgb[index] * rest[:, None] + np.clip(rgb, 0, 1) * cover[:, None]
        self.cover[index] = self.cover[index] * rest + cover
        self.shape[index] = np.maximum(self.shape[index], cover if shape is None else shape)

    def settled(self) -> tuple[Array, Array, Array]:
        """Return colour [size, size, 3], coverage and silhouette [size, size], averaged to pixels."""
        side = self.plane.x.shape
        rgb, cover, shape = (part.reshape(*side, *part.shape[1:]) for part in (self.rgb, self.cover, self.shape))
        return self.plane.settle(rgb), self.plane.settle(cover), self.plane.settle(shape)


def random_species(rng: np.random.Generator) -> tuple[int, ImaginarySpecies]:
    """Return the label of a random kind and a species of it that resembles no drawn butterfly.

    A species is discarded if it is nearer to a butterfly species than these are to each other.
    """
    label = int(rng.choice(len(KINDS), p=CHANCES))
    kind = KINDS[label]
    while True:
        palette, anatomy = random_palette(rng), random_anatomy(kind, rng)
        pattern = random_pattern(kind.style, palette, rng)
        look = appearance((anatomy.fore, anatomy.hind), (pattern.fore, pattern.hind), palette.colours)
        if distances(look, butterfly_appearances()[0]).min() >= gap():
            tone = look[: len(look) // 2].reshape(-1, 3).mean(axis=0)
            return label, ImaginarySpecies(kind, palette, pattern, anatomy, tone)


def lay_insect(canvas: Canvas, species: ImaginarySpecies, pose: Pose, light: Array, rng: np.random.Generator) -> None:
    """Paint an insect on the canvas, parts farther from the camera first."""
    anatomy, colours, plane = species.anatomy, species.palette.colours, canvas.plane
    if anatomy.legs or pose.name == "folded":
        canvas.lay(*paint_legs(anatomy, colours, pose, plane, rng))
    hind = paint_pair(anatomy.hind, species.pattern, True, colours, pose, light, plane, rng)
    fore = paint_pair(anatomy.fore, species.pattern, False, colours, pose, light, plane, rng)
    body = paint_body(anatomy, colours, pose, light, plane, rng)
    before_body = [*hind, *fore]
    after_body = []
    if abs(pose.roll) > 0.7:
        far, near = (0, 1) if fore[0].nearness < fore[1].nearness else (1, 0)
        before_body, after_body = [fore[far], hind[far]], [fore[near], hind[near]]
    for wing in before_body:
        canvas.lay(wing.index, wing.rgb, wing.cover, wing.shape)
    canvas.lay(*body)
    for wing in after_body:
        canvas.lay(wing.index, wing.rgb, wing.cover, wing.shape)


def _poses(species: ImaginarySpecies, rng: np.random.Generator) -> list[Pose]:
    """Choose the pose of one insect, or sometimes of two or three smaller ones that keep apart."""
    first = random_pose(rng.uniform(*species.kind.size), rng)
    number = int(rng.choice((1, 2, 3), p=(0.9, 0.08, 0.02)))
    if number == 1:
        return [first]
    start, poses = rng.uniform(0, 2 * np.pi), []
    for k in range(number):
        angle = start + 2 * np.pi * k / number + rng.normal(0, 0.2)
        scale = first.scale * rng.uniform(0.5, 0.62)
        x, y = 0.52 * np.cos(angle), 0.52 * np.sin(angle)
        pose = random_pose(1.0, rng, (0.7, 0.15, 0.0, 0.15))
        poses.append(replace(pose, x=float(x), y=float(y), scale=float(min(scale, 0.64))))
    return poses


def _backdrop(size: int, pose: Pose, rng: np.random.Generator) -> tuple[Array, str, bool]:
    """Return the scenery, its caption phrase, and whether the insect sits on it."""
    open_air = {"spread": 0.5, "raised": 0.45, "folded": 0.8, "flying": 0.85}[pose.name]
    above = rng.random() >= open_air
    backdrops, weights, phrases = zip(*(SURFACES if above else VIEWS), strict=True)
    chosen = rng.choice(len(backdrops), p=np.array(weights) / np.array(weights).sum())
    rgb, phrase = backdrops[chosen](size, rng), phrases[chosen]
    if above:
        return (blurred(rgb, rng.uniform(0.005, 0.03)) if rng.random() < 0.3 else rgb), phrase, True
    rgb = blurred(rgb, rng.uniform(0.01, 0.06))
    if pose.name == "flying" or rng.random() < (0.1 if pose.name == "folded" else 0.6):
        return rgb, phrase, False
    if pose.name == "folded":
        point, along = pose.to_image((-0.15 * np.sign(pose.roll), 0.02)), pose.turn + np.pi / 2
    else:
        point, along = pose.to_image((rng.normal(0, 0.05), 0.1)), rng.uniform(-np.pi, np.pi)
    if rng.random() < 0.55:
        return paint_twig(rgb, rng, point, along + rng.normal(0, 0.15), rng.uniform(0.025, 0.08)), phrase, False
    if pose.name == "folded":
        radius = rng.uniform(0.25, 0.5)
        point = pose.to_image((-0.2 * np.sign(pose.roll) - radius * 0.75 * np.sign(pose.roll), 0.0))
    return paint_flower(rgb, rng, point, rng.uniform(0.3, 0.55), 0.0), phrase, False


def _light(rng: np.random.Generator) -> Array:
    """Return a random unit vector to the lamp, mostly above the upper half of the image."""
    angle, height = rng.normal(-np.pi * 0.6, 0.8), rng.uniform(0.55, 0.95)
    flat = np.sqrt(1 - height**2)
    return np.array([flat * np.cos(angle), flat * np.sin(angle), height])


def _set_apart(rgb: Array, tone: Array, cover: Array) -> Array:
    """Darken or lighten the backdrop where an insect of mean colour `tone` [3] would be lost against it."""
    behind = (rgb * cover[..., None]).sum(axis=(0, 1)) / (cover.sum() + 1e-6)
    lacking = 0.22 - float(np.abs(tone - behind).max())
    if lacking <= 0:
        return rgb
    if rgb.mean() > 0.45:
        return rgb * np.float32(1 - 1.7 * lacking)
    return rgb + np.float32(1.5 * lacking) * (1 - rgb)


def _with_shadow(rgb: Array, shape: Array, light: Array, above: bool, rng: np.random.Generator) -> Array:
    """Add a soft shadow away from the light: close and dark on a surface, far and faint otherwise."""
    height = rng.uniform(0.02, 0.09) if above else rng.uniform(0.05, 0.16)
    strength = rng.uniform(0.28, 0.55) if above else rng.uniform(0.0, 0.22)
    size = shape.shape[0]
    shift = -light[:2] * height / light[2] * size / 2
    shadow = np.roll(shape, (round(shift[1]), round(shift[0])), axis=(0, 1))
    shadow = blurred(shadow, 0.012 + 0.35 * height)
    tint = np.array([0.08, 0.07, 0.075], dtype=np.float32)
    return rgb + (tint - rgb) * (np.float32(strength) * shadow)[..., None]


def draw_imaginary_insect(size: int, rng: np.random.Generator) -> tuple[Array, Array, int, str]:
    """Draw one scene. Return rgb [size, size, 3] in [0, 1], silhouette [size, size], label and caption."""
    # 1. species, poses, light
    label, species = random_species(rng)
    poses, light = _poses(species, rng), _light(rng)
    # 2. scenery
    rgb, phrase, above = _backdrop(size, poses[0], rng)
    # 3. insects and their shadow
    canvas = Canvas(Plane.of_size(size))
    for pose in poses:
        lay_insect(canvas, species, pose, light, rng)
    paint, cover, shape = canvas.settled()
    rgb = _set_apart(rgb, species.tone, cover)
    rgb = _with_shadow(rgb, shape, light, above, rng)
    rgb = rgb * (1 - cover)[..., None] + paint
    # 4. foreground and camera
    if not above and rng.random() < 0.08:
        corner = rng.choice((-1, 1)) * rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.1)
        green = oklch(rng.uniform(0.4, 0.75), 0.09, rng.uniform(100, 140))
        rgb = paint_blur(rgb, corner, rng.uniform(0.25, 0.5), green)
    rgb = photographed(rgb, random_camera(rng), light, rng)
    return np.clip(rgb, 0, 1), shape, label, _caption(species, poses, phrase)


def _caption(species: ImaginarySpecies, poses: list[Pose], phrase: str) -> str:
    """Compose a caption: 'a pale blue tailed insect with dark bands and eyespots, wings spread, on stone'."""
    motifs = [m for m in species.pattern.motifs if m not in ("clear", "twin eyespots", "pale tip spots")][-2:]
    word = species.palette.word
    article = ("an" if word[0] in "aeiou" else "a", "two", "three")[len(poses) - 1]
    traits = f" with {' and '.join(motifs)}" if motifs else ""
    stance = {"spread": "wings spread", "raised": "wings raised", "folded": "wings folded", "flying": "in flight"}
    noun = "insects" if len(poses) > 1 else "insect"
    return f"{article} {word} {species.kind.name} {noun}{traits}, {stance[poses[0].name]}, {phrase}"
