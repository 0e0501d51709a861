"""Animations as GIF, WebP or MP4."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio.v3 as iio
import numpy as np
import torch

from chrysalis.data.pixels import as_rgb
from chrysalis.system.files import written
from chrysalis.system.ranges import Frames, Seconds

Format = Literal["gif", "webp", "mp4"]


@dataclass
class Animation:
    """How animations are written.

    formats: one or several of gif, webp and mp4. frames: maximum for a trajectory. seconds: duration, 0.1 to 600.
    """

    formats: Format | Sequence[Format] | None = ("gif", "mp4")
    frames: Frames = 60
    seconds: Seconds = 4.0

    def __post_init__(self):
        self.suffixes = [self.formats] if isinstance(self.formats, str) else list(self.formats or [])

    def save(self, frames: Sequence[torch.Tensor], path: Path, seconds: float | None = None) -> list[str]:
        """Write frames, each uint8 [C, h, w], as path.gif, path.mp4 ... and return the file names.

        The last frame stays for one second more. seconds: duration, in place of the animation's own.
        """
        images = [np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()) for rgb in as_rgb(torch.stack(list(frames)))]
        duration = (self.seconds if seconds is None else seconds) / len(images)
        files = [path.with_suffix(f".{name}") for name in self.suffixes]
        for file in files:
            data = _mp4(images, duration) if file.suffix == ".mp4" else _looped(images, duration, file.suffix)
            with written(file) as partial:
                partial.write_bytes(data)
        return [file.name for file in files]


def _mp4(images: list[np.ndarray], duration: float) -> bytes:
    last = min(100, max(1, round(1 / duration)))  # copies of the last frame for one more second
    # H.264 in 4:2:0, which every player can show, needs even sides
    even = [image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2] for image in images]
    rate = min(100.0, max(0.1, round(1 / duration, 1)))
    frames = np.stack(even + [even[-1]] * last)
    return iio.imwrite("<bytes>", frames, extension=".mp4", plugin="pyav", codec="libx264", fps=rate)


def _looped(images: list[np.ndarray], duration: float, suffix: str) -> bytes:
    milliseconds = [round(1000 * duration)] * (len(images) - 1) + [round(1000 * (duration + 1))]
    return iio.imwrite("<bytes>", np.stack(images), extension=suffix, duration=milliseconds, loop=0)
