"""Poses: the position of an insect in the image, and the angles of its body and wings to a distant camera."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from chrysalis.data.synthetic.plane import Array, rotated

NAMES = ("spread", "raised", "folded", "flying")


@dataclass(frozen=True)
class Pose:
    """Angles in radians, positions in the plane. Body frame: X to the right, Y to the tail, Z towards the camera."""

    name: str
    x: float
    y: float
    scale: float
    turn: float  # in the image
    pitch: float  # about X: the head towards or away from the camera
    roll: float  # about Y
    lift: float  # of the wings, from flat (0) to folded above the back
    swing: float  # of the forewings towards the head, degrees

    def project(self, points: Array) -> Array:
        """Project points [..., 3] of the body frame to the body plane [..., 2], before turning and scaling."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        across = x * np.cos(self.roll) + z * np.sin(self.roll)
        depth = z * np.cos(self.roll) - x * np.sin(self.roll)
        return np.stack([across, y * np.cos(self.pitch) - depth * np.sin(self.pitch)], axis=-1)

    def wing(self, side: int) -> tuple[Array, Array]:
        """Return the matrix [2, 2] from a wing's plane to the image, and the wing's upward normal [3] in the image."""
        c, s = np.cos(self.lift), np.sin(self.lift)
        out, back = self.project(np.array([[side * c, 0, s], [0, 1.0, 0]]))
        turn = np.array([[np.cos(self.turn), -np.sin(self.turn)], [np.sin(self.turn), np.cos(self.turn)]])
        nx = -side * s * np.cos(self.roll) + c * np.sin(self.roll)
        nz = c * np.cos(self.roll) + side * s * np.sin(self.roll)
        normal = np.array([nx, -nz * np.sin(self.pitch), nz * np.cos(self.pitch)])
        return self.scale * turn @ np.stack([out, back], axis=1), np.array([*(turn @ normal[:2]), normal[2]])

    def to_body(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Transform image coordinates to the body plane of `project`."""
        x, y = rotated(x - np.float32(self.x), y - np.float32(self.y), self.turn)
        return x / np.float32(self.scale), y / np.float32(self.scale)

    def to_image(self, point: tuple[float, float]) -> tuple[float, float]:
        """Transform one point of the body plane to image coordinates, the inverse of `to_body`."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        x, y = c * point[0] - s * point[1], s * point[0] + c * point[1]
        return self.x + self.scale * x, self.y + self.scale * y


def random_pose(size: float, rng: Generator, chances: tuple[float, ...] = (0.58, 0.13, 0.15, 0.14)) -> Pose:
    """Choose a pose. Most frame the insect like the drawn butterflies; some are far away, some very near.

    Args:
        size: size of the species, relative to a forewing of length 1.
        chances: probability of each of NAMES.
    """
    name = NAMES[rng.choice(4, p=chances)]
    x, y = np.clip(rng.normal(0, 0.09, 2), -0.2, 0.2)
    zoom = rng.choice((0, 1, 2), p=(0.8, 0.11, 0.09))
    scale = size * (rng.uniform(0.86, 1.06), rng.uniform(0.6, 0.86), rng.uniform(1.06, 1.5))[zoom]
    if zoom == 2:
        x, y = rng.uniform(-0.4, 0.4, 2)
    turn = rng.normal(0, 0.32) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    if name == "spread":
        angles = rng.normal(0, 0.12), rng.normal(0, 0.12), rng.uniform(-0.1, 0.45), rng.uniform(-10, 10)
    elif name == "raised":
        angles = rng.normal(0, 0.2), rng.normal(0, 0.3), rng.uniform(0.5, 1.05), rng.uniform(-10, 8)
        scale *= 1.08
    elif name == "flying":
        angles = rng.normal(0, 0.4), rng.normal(0, 0.4), rng.uniform(-0.6, 1.0), rng.uniform(-14, 12)
        turn = rng.normal(0, 0.8)
    else:
        side = rng.choice((-1, 1))
        angles = rng.normal(0, 0.08), side * rng.uniform(1.25, 1.5), rng.uniform(1.3, 1.5), rng.uniform(-22, 0)
        turn = -side * (np.pi / 2 + rng.normal(-0.2, 0.3))
        x, y = np.array([x, y]) - 0.42 * scale * np.array([np.cos(turn), np.sin(turn)]) * side
    pitch, roll, lift, swing = angles
    return Pose(name, float(x), float(y + 0.03), float(scale), float(turn), pitch, roll, lift, swing)
