"""Scenes of imaginary insects: each image has its own random species, pose, scenery and light."""

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.camera import photographed
from chrysalis.data.synthetic.insect_kinds import INSECT_KINDS
from chrysalis.data.synthetic.insect_palettes import oklch
from chrysalis.data.synthetic.insect_parts import paint_body, paint_legs, paint_wings
from chrysalis.data.synthetic.insect_poses import Pose, random_pose
from chrysalis.data.synthetic.insect_species import ImaginarySpecies, random_species
from chrysalis.data.synthetic.plane import Array, Plane, blurred
from chrysalis.data.synthetic.scenery import VIEWS, paint_blur, paint_flower, paint_twig
from chrysalis.data.synthetic.scenery_surfaces import SURFACES


class Canvas:
    """Super-sampled, premultiplied colors, coverage and silhouette of everything in front of the backdrop."""

    def __init__(self, plane: Plane):
        self.plane, shape = plane, plane.x.shape
        self.rgb, self.cover, self.silhouette = (np.zeros(s, dtype=np.float32) for s in ((*shape, 3), shape, shape))

    def lay(self, index: Array, rgb: Array, cover: Array, silhouette: Array | None = None) -> None:
        """Composite colors [N, 3] with coverage [N] over the samples at flat indices [N]."""
        at = np.divmod(index, len(self.silhouette))
        self.rgb[at] = self.rgb[at] * (1 - cover)[:, None] + np.clip(rgb, 0, 1) * cover[:, None]
        self.cover[at] = self.cover[at] * (1 - cover) + cover
        self.silhouette[at] = np.maximum(self.silhouette[at], cover if silhouette is None else silhouette)

    def downsampled(self) -> tuple[Array, Array, Array]:
        """Return colors [size, size, 3], coverage and silhouette [size, size], averaged to pixels."""
        return (
            self.plane.downsampled(self.rgb),
            self.plane.downsampled(self.cover),
            self.plane.downsampled(self.silhouette),
        )


def lay_insect(canvas: Canvas, species: ImaginarySpecies, pose: Pose, light: Array, rng: Generator) -> None:
    """Paint an insect on the canvas, parts farther from the camera first."""
    if species.anatomy.legs or pose.name == "folded":
        canvas.lay(*paint_legs(species, pose, canvas.plane, rng))
    hind = paint_wings(species, True, pose, light, canvas.plane, rng)
    fore = paint_wings(species, False, pose, light, canvas.plane, rng)
    body = paint_body(species, pose, light, canvas.plane, rng)
    parts = [*hind, *fore, body]
    if abs(pose.roll) > 0.7:
        far, near = (0, 1) if pose.roll < 0 else (1, 0)
        parts = [fore[far], hind[far], body, fore[near], hind[near]]
    for part in parts:
        canvas.lay(*part)


def _poses(species: ImaginarySpecies, rng: Generator) -> list[Pose]:
    """Choose the pose of one insect, or sometimes of two or three smaller ones that keep apart."""
    first = random_pose(rng.uniform(*species.kind.size), rng)
    number = int(rng.choice((1, 2, 3), p=(0.9, 0.08, 0.02)))
    if number == 1:
        return [first]
    start, poses = rng.uniform(0, 2 * np.pi), []
    for k in range(number):
        angle = start + 2 * np.pi * k / number + rng.normal(0, 0.2)
        scale = min(first.scale * rng.uniform(0.5, 0.62), 0.64)
        pose = random_pose(1.0, rng, (0.7, 0.15, 0.0, 0.15))
        poses.append(replace(pose, x=0.52 * float(np.cos(angle)), y=0.52 * float(np.sin(angle)), scale=scale))
    return poses


def _backdrop(plane: Plane, pose: Pose, rng: Generator) -> tuple[Array, str, bool]:
    """Return the scenery, its caption phrase, and whether the insect sits on it."""
    open_air = {"spread": 0.5, "raised": 0.45, "folded": 0.8, "flying": 0.85}[pose.name]
    above = rng.random() >= open_air
    backdrops, weights, phrases = zip(*(SURFACES if above else VIEWS), strict=True)
    chosen = rng.choice(len(backdrops), p=np.array(weights) / np.array(weights).sum())
    rgb, phrase = backdrops[chosen](plane, rng), phrases[chosen]
    if above:
        return (blurred(rgb, rng.uniform(0.005, 0.03)) if rng.random() < 0.3 else rgb), phrase, True
    rgb = blurred(rgb, rng.uniform(0.01, 0.06))
    folded, side = pose.name == "folded", np.sign(pose.roll)
    if pose.name == "flying" or rng.random() < (0.1 if folded else 0.6):
        return rgb, phrase, False
    # it sits on a twig or a flower, below its feet
    if folded:
        point, along = pose.to_image((-0.15 * side, 0.02)), pose.turn + np.pi / 2
    else:
        point, along = pose.to_image((rng.normal(0, 0.05), 0.1)), rng.uniform(-np.pi, np.pi)
    if rng.random() < 0.55:
        return paint_twig(rgb, plane, rng, point, along + rng.normal(0, 0.15), rng.uniform(0.025, 0.08)), phrase, False
    if folded:
        radius = rng.uniform(0.25, 0.5)
        point = pose.to_image((-0.2 * side - radius * 0.75 * side, 0.0))
    return paint_flower(rgb, plane, rng, point, rng.uniform(0.3, 0.55), 0.0), phrase, False


def _light(rng: Generator) -> Array:
    """Return a random unit vector to the lamp, mostly above the upper half of the image."""
    angle, height = rng.normal(-np.pi * 0.6, 0.8), rng.uniform(0.55, 0.95)
    flat = np.sqrt(1 - height**2)
    return np.array([flat * np.cos(angle), flat * np.sin(angle), height])


def _set_apart(rgb: Array, tone: Array, cover: Array) -> Array:
    """Darken or lighten the backdrop where an insect of mean color `tone` [3] would be lost against it."""
    behind = (rgb * cover[..., None]).sum(axis=(0, 1)) / (cover.sum() + 1e-6)
    lacking = 0.22 - float(np.abs(tone - behind).max())
    if lacking <= 0:
        return rgb
    if rgb.mean() > 0.45:
        return rgb * np.float32(1 - 1.7 * lacking)
    return rgb + np.float32(1.5 * lacking) * (1 - rgb)


def _with_shadow(rgb: Array, shape: Array, light: Array, above: bool, rng: Generator) -> Array:
    """Add a soft shadow away from the light: close and dark on a surface, far and faint otherwise."""
    height = rng.uniform(0.02, 0.09) if above else rng.uniform(0.05, 0.16)
    strength = rng.uniform(0.28, 0.55) if above else rng.uniform(0.0, 0.22)
    shift = -light[:2] * height / light[2] * len(shape) / 2
    shadow = np.roll(shape, (round(shift[1]), round(shift[0])), axis=(0, 1))
    shadow = blurred(shadow, 0.012 + 0.35 * height)
    tint = np.array([0.08, 0.07, 0.075], dtype=np.float32)
    return rgb + (tint - rgb) * (np.float32(strength) * shadow)[..., None]


def draw_imaginary_insect(size: int, rng: Generator) -> tuple[Array, Array, int, str]:
    """Draw one scene. Return rgb [size, size, 3] in [0, 1], silhouette [size, size], label and caption."""
    # 1. species, poses, light
    species = random_species(rng)
    poses, light = _poses(species, rng), _light(rng)
    # 2. scenery
    plane = Plane.of_size(size, samples=1)
    rgb, phrase, above = _backdrop(plane, poses[0], rng)
    # 3. insects and their shadow
    canvas = Canvas(Plane.of_size(size))
    for pose in poses:
        lay_insect(canvas, species, pose, light, rng)
    paint, cover, shape = canvas.downsampled()
    rgb = _with_shadow(_set_apart(rgb, species.tone, cover), shape, light, above, rng)
    rgb = rgb * (1 - cover)[..., None] + paint
    # 4. foreground and camera
    if not above and rng.random() < 0.08:
        corner = rng.choice((-1, 1)) * rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.1)
        green = oklch(rng.uniform(0.4, 0.75), 0.09, rng.uniform(100, 140))
        rgb = paint_blur(rgb, plane, corner, rng.uniform(0.25, 0.5), green)
    rgb = photographed(rgb, plane, light, rng)
    return np.clip(rgb, 0, 1), shape, INSECT_KINDS.index(species.kind), _caption(species, poses, phrase)


def _caption(species: ImaginarySpecies, poses: list[Pose], phrase: str) -> str:
    """Compose a caption: 'a pale blue tailed insect with dark bands and eyespots, wings spread, on stone'."""
    word, motifs = species.palette.word, species.pattern.motifs[-2:]
    article = ("an" if word[0] in "aeiou" else "a", "two", "three")[len(poses) - 1]
    traits = f" with {' and '.join(motifs)}" if motifs else ""
    stance = {"spread": "wings spread", "raised": "wings raised", "folded": "wings folded", "flying": "in flight"}
    noun = "insects" if len(poses) > 1 else "insect"
    return f"{article} {word} {species.kind.name} {noun}{traits}, {stance[poses[0].name]}, {phrase}"
