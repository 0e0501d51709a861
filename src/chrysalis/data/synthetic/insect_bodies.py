"""Bodies of imaginary insects: abdomen, thorax and head, eyes, antennae and legs."""

import numpy as np

from chrysalis.data.synthetic.insect_kinds import Anatomy
from chrysalis.data.synthetic.insect_poses import Pose
from chrysalis.data.synthetic.plane import Array, Plane, cloud, inside, over, smoothstep


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


def paint_body(
    anatomy: Anatomy, palette: dict[str, Array], pose: Pose, light: Array, plane: Plane, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Paint body, eyes and antennae. Return flat indices into the plane, colours [N, 3] and coverage [N]."""
    reach = pose.scale * (max(anatomy.abdomen * 1.2 + 0.1, anatomy.reach * 1.1 + 0.3) + 0.05)
    size = plane.x.shape[0]
    low_x, low_y = (max(0, int((c - reach + 1) / 2 * size)) for c in (pose.x, pose.y))
    high_x, high_y = (min(size, int((c + reach + 1) / 2 * size) + 1) for c in (pose.x, pose.y))
    x, y = pose.to_body(plane.x[low_y:high_y, low_x:high_x].ravel(), plane.y[low_y:high_y, low_x:high_x].ravel())
    half = max(anatomy.girth * 2.4, 0.03 + anatomy.spread * anatomy.reach + 0.06, 0.5 * abs(np.sin(pose.roll)))
    keep = np.flatnonzero(np.abs(x) < half)
    rows, columns = np.divmod(keep, max(high_x - low_x, 1))
    index = (rows + low_y) * size + columns + low_x
    x, y, pixel = x[keep], y[keep], plane.pixel / pose.scale
    feelers, feeler_rgb = _antennae(anatomy, palette, pose, x, y, pixel)
    near = np.flatnonzero(np.abs(x) < 2 * anatomy.girth)
    trunk_rgb, trunk = _trunk(anatomy, palette, pose, light, x[near], y[near], pixel, rng)
    rgb, cover = np.array(np.broadcast_to(feeler_rgb, (len(x), 3))), feelers
    rgb[near] += (trunk_rgb - rgb[near]) * trunk[:, None]
    cover[near] = np.maximum(cover[near], trunk)
    return index, rgb, cover


def _trunk(anatomy, palette, pose, light, x, y, pixel, rng) -> tuple[Array, Array]:
    """Three ellipses, lit as round bodies, ringed, and frayed by fur."""
    girth, squeeze = anatomy.girth, max(np.cos(pose.pitch), 0.5)
    y = y / squeeze
    fray = anatomy.fur * girth * 0.2 * cloud(x, y * 0.6, rng, 0.03, 2) if anatomy.fur > 0.25 else 0.0
    parts = (
        (0.02 + anatomy.abdomen * 0.9, girth * 0.82, anatomy.abdomen),
        (-0.07, girth * 1.18, 0.12 + 0.35 * girth),
        (-0.19 - 0.5 * girth, girth * 0.85, 0.03 + 0.55 * girth),
    )
    depth, facing = np.full_like(x, -9.0), np.zeros_like(x)
    lx, ly = np.array([np.cos(pose.turn) * light[0] + np.sin(pose.turn) * light[1],
                       np.cos(pose.turn) * light[1] - np.sin(pose.turn) * light[0]])  # fmt: skip
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


def _antennae(anatomy, palette, pose, x, y, pixel) -> tuple[Array, Array]:
    """Coverage [N] and colour [3] of two curved antennae: clubbed, feathered, thread or bristle."""
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


def paint_legs(
    anatomy: Anatomy, palette: dict[str, Array], pose: Pose, plane: Plane, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Paint six jointed legs, to lie below wings and body. Return indices, colours and coverage like paint_body."""
    size = plane.x.shape[0]
    long = 0.17 + 1.5 * anatomy.girth
    paths = []
    for along, forward in ((-0.14, -0.1), (-0.06, 0.03), (0.01, 0.14)):
        for side in (-1, 1):
            bend = long * rng.uniform(0.85, 1.1)
            knee = (side * (anatomy.girth + 0.5 * bend), along + forward * bend * 4, 0.03)
            foot = (side * (anatomy.girth + 0.85 * bend), along + forward * bend * 8 + 0.02, -0.75 * bend)
            paths.append(pose.project(np.array([(side * 0.5 * anatomy.girth, along, -0.02), knee, foot])))
    reach = pose.scale * (np.abs(np.array(paths)).max() * 1.42 + 0.03)
    low_x, low_y = (max(0, int((c - reach + 1) / 2 * size)) for c in (pose.x, pose.y))
    high_x, high_y = (min(size, int((c + reach + 1) / 2 * size) + 1) for c in (pose.x, pose.y))
    index = (np.arange(low_y, high_y)[:, None] * size + np.arange(low_x, high_x)).ravel()
    x, y = pose.to_body(plane.x.ravel()[index], plane.y.ravel()[index])
    pixel, cover = plane.pixel / pose.scale, np.zeros_like(x)
    for path in paths:
        away, along = distance_to_path(x, y, path)
        cover = np.maximum(cover, inside(np.maximum(0.016 - 0.009 * along, pixel * 0.3) - away, pixel))
    keep = cover > 0
    return index[keep], np.broadcast_to(palette["ink"] * np.float32(0.9), (int(keep.sum()), 3)), cover[keep]
