"""The wings of an imaginary insect: flat plates in space, painted only where they are visible."""

from dataclasses import dataclass, replace

import numpy as np

from chrysalis.data.synthetic.insect_layers import LitWing
from chrysalis.data.synthetic.insect_patterns import Pattern
from chrysalis.data.synthetic.insect_poses import Pose
from chrysalis.data.synthetic.plane import Array, Plane, cloud, inside, smoothstep
from chrysalis.data.synthetic.wings import Outline

FIELDS = ("x", "y", "dx", "dy", "r", "u", "v", "reach", "depth")


@dataclass
class Painted:
    """Sample points of one wing: flat indices into the plane, their colours [N, 3] and coverage [N]."""

    index: Array
    rgb: Array
    cover: Array  # lower where the wing is translucent
    shape: Array
    nearness: float


def _box(outline: Outline, matrix: Array, centre: tuple[float, float], plane: Plane) -> tuple[slice, slice]:
    """Rows and columns of the plane that a wing may cover."""
    v = np.linspace(0, 1, 41, dtype=np.float32)
    dx, dy = outline.offset(outline.radius(v) * 1.02, v)
    x, y = np.append(outline.root[0] + dx, outline.root[0]), np.append(outline.root[1] - dy, outline.root[1])
    corners = matrix @ np.stack([x, y]) + np.array(centre)[:, None]
    size = plane.x.shape[0]
    low = np.floor((corners.min(axis=1) + 1) / 2 * size - 1).astype(int).clip(0, size)
    high = np.ceil((corners.max(axis=1) + 1) / 2 * size + 1).astype(int).clip(0, size)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _place(outline: Outline, pose: Pose, matrix: Array, plane: Plane) -> tuple[Array, Array, Array]:
    """Flat indices of the samples in a wing's box, and their coordinates in the wing's own plane."""
    if abs(np.linalg.det(matrix)) < 0.04 * pose.scale**2:  # seen from its edge
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32)
    rows, columns = _box(outline, matrix, (pose.x, pose.y), plane)
    size = plane.x.shape[0]
    index = (np.arange(rows.start, rows.stop)[:, None] * size + np.arange(columns.start, columns.stop)).ravel()
    inverse = np.linalg.inv(matrix).astype(np.float32)
    dx = plane.x[rows, columns].ravel() - np.float32(pose.x)
    dy = plane.y[rows, columns].ravel() - np.float32(pose.y)
    return index, inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy


def paint_pair(
    outline: Outline,
    pattern: Pattern,
    hind: bool,
    palette: dict[str, Array],
    pose: Pose,
    light: Array,
    plane: Plane,
    rng: np.random.Generator,
) -> list[Painted]:
    """Paint a left and a right wing of one outline; the pattern of both is computed at once."""
    swing = pose.swing * (0.6 if hind else 1.0)
    outline = replace(outline, leading=outline.leading + swing, trailing=outline.trailing + swing * 0.8)
    plates = [pose.wing(side) for side in (-1, 1)]
    places = [_place(outline, pose, matrix, plane) for matrix, _ in plates]
    x, y = (np.concatenate([place[k] for place in places]) for k in (1, 2))
    side = np.repeat(np.array([0, 1]), [len(place[0]) for place in places])
    index = np.concatenate([place[0] for place in places])
    wing = LitWing(outline, x, y, plane.pixel / pose.scale, palette, x)
    keep = np.flatnonzero(wing.depth > -wing.pixel)
    for name in FIELDS:
        setattr(wing, name, getattr(wing, name)[keep])
    index, side = index[keep], side[keep]
    wing.texture = 1.4 * cloud(wing.x, wing.y, rng, 0.16, 2)
    wing.grain = 1.4 * cloud(0.8 * wing.x + 0.6 * wing.y, 0.8 * wing.y - 0.6 * wing.x, rng, 0.03, 2)
    shades, facings = zip(*(_lighting(normal, light) for _, normal in plates), strict=True)
    wing.facing = np.array(facings, dtype=np.float32)[side]
    rgb = np.zeros((len(keep), 3), dtype=np.float32)
    for layer in pattern.hind if hind else pattern.fore:
        rgb = layer(wing, rgb)
    rgb = rgb * (_relief(wing, pattern.count, hind) * np.array(shades, dtype=np.float32)[side])[:, None]
    shape = inside(wing.depth, wing.pixel)
    cover = shape * wing.opacity
    return [
        Painted(index[side == k], rgb[side == k], cover[side == k], shape[side == k], pose.nearness(2 * k - 1))
        for k in (0, 1)
    ]


def _lighting(normal: Array, light: Array) -> tuple[float, float]:
    """Brightness of a wing under a light from `light` [3], and how much of its sheen shows."""
    facing = float(normal @ light) * np.sign(normal[2] or 1)
    return 0.66 + 0.42 * max(facing, 0.0), float(np.clip(0.25 + 0.9 * facing, 0, 1.1))


def _relief(wing: LitWing, count: int, hind: bool) -> Array:
    """Pleats along the veins, a darker root, and the shadow of the forewing on the hind wing."""
    pleats = np.cos(2 * np.pi * count * wing.v) * np.clip(wing.u, 0, 1)
    relief = 0.99 + 0.035 * pleats + 0.045 * wing.texture + 0.03 * wing.grain
    relief = relief - 0.2 * smoothstep(0.3, 0.0, wing.u) - 0.05 * smoothstep(0.8, 1.0, wing.u)
    if hind:
        relief = relief - 0.28 * smoothstep(0.42, 0.0, wing.v - 0.1)
    return relief
