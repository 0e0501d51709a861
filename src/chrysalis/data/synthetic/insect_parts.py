"""The parts of an imaginary insect: wings, body, eyes, antennae and legs.

Each part is painted only where it is visible, and returned as flat indices [N] into the samples of the plane, colors
[N, 3], coverage [N] and, for wings, which may be translucent, their silhouette [N].
"""

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.insect_poses import Pose
from chrysalis.data.synthetic.insect_species import ImaginarySpecies
from chrysalis.data.synthetic.plane import Array, Plane, cloud, inside, over, smoothstep
from chrysalis.data.synthetic.wings import Outline, Wing

Part = tuple[Array, ...]


def paint_wings(
    species: ImaginarySpecies, hind: bool, pose: Pose, light: Array, plane: Plane, rng: Generator
) -> tuple[Part, Part]:
    """Paint the left and the right wing of a pair, as flat plates in space; both patterns are computed at once."""
    # 1. samples on either wing
    anatomy, pattern, swing = species.anatomy, species.pattern, pose.swing * (0.6 if hind else 1.0)
    outline, layers = (anatomy.hind, pattern.hind) if hind else (anatomy.fore, pattern.fore)
    outline = replace(outline, leading=outline.leading + swing, trailing=outline.trailing + swing * 0.8)
    plates = [pose.wing(side) for side in (-1, 1)]
    samples = [_wing_samples(outline, pose, matrix, plane) for matrix, _ in plates]
    index, x, y = (np.concatenate(both) for both in zip(*samples, strict=True))
    side = np.repeat([0, 1], [len(part[0]) for part in samples])
    wing = Wing(outline, x, y, plane.pixel / pose.scale, species.palette.colors)
    keep = np.flatnonzero(wing.depth > -wing.pixel)
    index, side = index[keep], side[keep]
    wing.keep(keep)
    # 2. their colors
    shades, facings = zip(*(_lighting(normal, light) for _, normal in plates), strict=True)
    wing.texture = 1.4 * cloud(wing.x, wing.y, rng, 0.16, 2)
    wing.grain = 1.4 * cloud(0.8 * wing.x + 0.6 * wing.y, 0.8 * wing.y - 0.6 * wing.x, rng, 0.03, 2)
    wing.facing = np.array(facings, dtype=np.float32)[side]
    shade = _relief(wing, pattern.count, hind) * np.array(shades, dtype=np.float32)[side]
    rgb = wing.paint(layers) * shade[:, None]
    shape = inside(wing.depth, wing.pixel)
    part = index, rgb, shape * wing.opacity, shape
    return tuple(values[side == 0] for values in part), tuple(values[side == 1] for values in part)


def _wing_samples(outline: Outline, pose: Pose, matrix: Array, plane: Plane) -> Part:
    """Return the flat indices of the samples in a wing's bounding box, and their coordinates on the wing's plane."""
    if abs(np.linalg.det(matrix)) < 0.04 * pose.scale**2:  # seen from its edge
        nothing = np.empty(0, dtype=np.float32)
        return nothing.astype(int), nothing, nothing
    v = np.linspace(0, 1, 41, dtype=np.float32)
    dx, dy = outline.offset(outline.radius(v) * 1.02, v)
    x, y = np.append(outline.root[0] + dx, outline.root[0]), np.append(outline.root[1] - dy, outline.root[1])
    rim = matrix @ np.stack([x, y]) + np.array([[pose.x], [pose.y]])
    index = plane.box(rim.min(axis=1), rim.max(axis=1), margin=1)
    inverse = np.linalg.inv(matrix).astype(np.float32)
    dx = plane.x.ravel()[index] - np.float32(pose.x)
    dy = plane.y.ravel()[index] - np.float32(pose.y)
    return index, inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy


def _lighting(normal: Array, light: Array) -> tuple[float, float]:
    """Return the brightness of a wing under a lamp in direction `light` [3], and how much of its sheen shows."""
    facing = float(normal @ light) * np.sign(normal[2] or 1)
    return 0.66 + 0.42 * max(facing, 0.0), float(np.clip(0.25 + 0.9 * facing, 0, 1.1))


def _relief(wing: Wing, count: int, hind: bool) -> Array:
    """Return the brightness [N]: pleats along the veins, a dark root, and the forewing's shadow on the hind wing."""
    pleats = np.cos(2 * np.pi * count * wing.v) * np.clip(wing.u, 0, 1)
    relief = 0.99 + 0.035 * pleats + 0.045 * wing.texture + 0.03 * wing.grain
    relief = relief - 0.2 * smoothstep(0.3, 0.0, wing.u) - 0.05 * smoothstep(0.8, 1.0, wing.u)
    if hind:
        relief = relief - 0.28 * smoothstep(0.42, 0.0, wing.v - 0.1)
    return relief


def distance_to_path(x: Array, y: Array, path: Array) -> tuple[Array, Array]:
    """Return the distance from the polyline `path` [K, 2], and the position along it in [0, 1]."""
    pieces = len(path) - 1
    nearest, along = np.full_like(x, 9.0), np.zeros_like(x)
    for k in range(pieces):
        (ax, ay), (bx, by) = path[k].astype(np.float32), path[k + 1].astype(np.float32)
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey + 1e-9), 0, 1)
        distance = np.hypot(x - ax - t * ex, y - ay - t * ey)
        closer = distance < nearest
        nearest, along = np.where(closer, distance, nearest), np.where(closer, (k + t) / pieces, along)
    return nearest, along


def paint_body(species: ImaginarySpecies, pose: Pose, light: Array, plane: Plane, rng: Generator) -> Part:
    """Paint body, eyes and antennae."""
    anatomy = species.anatomy
    reach = pose.scale * (max(anatomy.abdomen * 1.2 + 0.1, anatomy.reach * 1.1 + 0.3) + 0.05)
    index, x, y = _body_samples(pose, reach, plane)
    half = max(anatomy.girth * 2.4, 0.03 + anatomy.spread * anatomy.reach + 0.06, 0.5 * abs(np.sin(pose.roll)))
    keep = np.abs(x) < half
    index, x, y, pixel = index[keep], x[keep], y[keep], plane.pixel / pose.scale
    cover, color = _antennae(species, pose, x, y, pixel)
    near = np.flatnonzero(np.abs(x) < 2 * anatomy.girth)
    trunk_rgb, trunk = _trunk(species, pose, light, x[near], y[near], pixel, rng)
    rgb = np.tile(color, (len(x), 1))
    rgb[near] += (trunk_rgb - rgb[near]) * trunk[:, None]
    cover[near] = np.maximum(cover[near], trunk)
    return index, rgb, cover


def _body_samples(pose: Pose, reach: float, plane: Plane) -> Part:
    """Return the flat indices of the samples within `reach` of the insect's center, and their body coordinates."""
    center = np.array([pose.x, pose.y])
    index = plane.box(center - reach, center + reach)
    return index, *pose.to_body(plane.x.ravel()[index], plane.y.ravel()[index])


def _trunk(species, pose, light, x, y, pixel, rng) -> tuple[Array, Array]:
    """Paint the eyes, and three ellipses lit as round bodies, ringed and frayed by fur."""
    anatomy, palette = species.anatomy, species.palette.colors
    girth, squeeze = anatomy.girth, max(np.cos(pose.pitch), 0.5)
    y = y / squeeze
    fray = anatomy.fur * girth * 0.2 * cloud(x, y * 0.6, rng, 0.03, 2) if anatomy.fur > 0.25 else 0.0
    parts = (
        (0.02 + anatomy.abdomen * 0.9, girth * 0.82, anatomy.abdomen),
        (-0.07, girth * 1.18, 0.12 + 0.35 * girth),
        (-0.19 - 0.5 * girth, girth * 0.85, 0.03 + 0.55 * girth),
    )
    depth, facing = np.full_like(x, -9.0), np.zeros_like(x)
    lx = np.cos(pose.turn) * light[0] + np.sin(pose.turn) * light[1]
    ly = np.cos(pose.turn) * light[1] - np.sin(pose.turn) * light[0]
    for cy, wide, long in parts:
        nx, ny = x / wide, (y - cy) / long
        away = np.hypot(nx, ny) + 1e-3
        inner = np.hypot(x, y - cy) * (1 / away - 1) + fray
        top = inner > depth
        depth = np.where(top, inner, depth)
        round_z = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
        facing = np.where(top, nx * lx + ny * ly + round_z * light[2], facing)
    base = np.broadcast_to(palette["body"], (len(x), 3))
    if anatomy.rings:
        stripe = smoothstep(-0.2, 0.5, np.sin(y * anatomy.rings * 2.2)) * smoothstep(0.0, 0.08, y)
        base = over(base, palette["ring"], 0.75 * stripe)
    hair = 0.12 * anatomy.fur * cloud(x * 2, y * 0.7, rng, 0.03, 1)
    rgb = base * (0.5 + 0.62 * np.clip(facing, 0, 1) + hair)[:, None] + 0.1 * np.clip(facing - 0.8, 0, 1)[:, None]
    ex = girth * (0.5 + 0.25 * anatomy.eyes)
    away = np.hypot(np.abs(x - 0.25 * girth * np.sin(pose.roll)) - ex, y + 0.2 + 0.75 * girth)
    eye = inside(0.55 * girth * anatomy.eyes - away, pixel)
    glint = inside(0.16 * girth * anatomy.eyes - np.hypot(np.abs(x + 0.1 * girth) - ex, y + 0.2 + 0.9 * girth), pixel)
    rgb = over(over(rgb, palette["ink"] * np.float32(0.8), eye), palette["light"], 0.7 * glint)
    return np.clip(rgb, 0, 1), np.maximum(inside(depth, pixel), eye)


def _antennae(species, pose, x, y, pixel) -> tuple[Array, Array]:
    """Return coverage [N] and color [3] of two curved antennae: clubbed, feathered, thread or bristle."""
    anatomy, palette = species.anatomy, species.palette.colors
    start, length, spread = -0.2 - 0.9 * anatomy.girth, anatomy.reach, anatomy.spread * anatomy.reach
    t = np.linspace(0, 1, 5)
    covered, ahead = np.zeros_like(x), np.flatnonzero(y < 0.1)
    x, y, cover = x[ahead], y[ahead], np.zeros(len(ahead), dtype=np.float32)
    for side in (-1, 1):
        across = side * (0.3 * anatomy.girth + spread * (0.45 * t + 0.55 * t * t))
        path = pose.project(np.stack([across, start - length * (t - 0.2 * t * t), 0.25 * length * t], axis=-1))
        away, along = distance_to_path(x, y, path)
        width = np.maximum(0.0075, pixel * 0.32)
        if anatomy.antennae == "feathered":
            comb = 0.75 + 0.25 * np.sin(along * 55)
            plume = 0.05 * np.sin(np.pi * np.clip(along * 0.9 + 0.1, 0, 1)) * comb
            cover = np.maximum(cover, 0.85 * inside(plume - away, pixel * 1.3))
        if anatomy.antennae == "clubbed":
            width = width + 0.013 * smoothstep(0.8, 0.97, along)
        cover = np.maximum(cover, inside(width - away, pixel))
    covered[ahead] = cover
    return covered, palette["body"] * np.float32(0.85) if anatomy.antennae == "feathered" else palette["ink"]


def paint_legs(species: ImaginarySpecies, pose: Pose, plane: Plane, rng: Generator) -> Part:
    """Paint six jointed legs, to lie below wings and body."""
    girth = species.anatomy.girth
    long = 0.17 + 1.5 * girth
    paths = []
    for along, forward in ((-0.14, -0.1), (-0.06, 0.03), (0.01, 0.14)):
        for side in (-1, 1):
            bend = long * rng.uniform(0.85, 1.1)
            knee = (side * (girth + 0.5 * bend), along + forward * bend * 4, 0.03)
            foot = (side * (girth + 0.85 * bend), along + forward * bend * 8 + 0.02, -0.75 * bend)
            paths.append(pose.project(np.array([(side * 0.5 * girth, along, -0.02), knee, foot])))
    reach = pose.scale * (np.abs(np.array(paths)).max() * 1.42 + 0.03)
    index, x, y = _body_samples(pose, reach, plane)
    pixel, cover = plane.pixel / pose.scale, np.zeros_like(x)
    for path in paths:
        away, along = distance_to_path(x, y, path)
        cover = np.maximum(cover, inside(np.maximum(0.016 - 0.009 * along, pixel * 0.3) - away, pixel))
    keep = cover > 0
    color = species.palette.colors["ink"] * np.float32(0.9)
    return index[keep], np.tile(color, (keep.sum(), 1)), cover[keep]
