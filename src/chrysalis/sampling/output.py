"""The folder that a sampling fills: complete PNG files that say how to generate them again, and figures of them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from PIL import Image

from chrysalis.data import pixels
from chrysalis.sampling.animation import Animation
from chrysalis.sampling.grids import read
from chrysalis.sampling.image_writer import ImageWriter
from chrysalis.sampling.record import SamplingRecord
from chrysalis.system.files import shown

MOST_IN_FIGURES = 64  # images in a grid, and images that stay in memory for it


class OutputFolder:
    """The images of one sampling in the folder `path`, by name; raises UserError for a folder of other images.

    The images named by `keep_in_memory` are not read again for figures; others, such as those of other processes or
    of an earlier, stopped command, are read from their files.
    """

    def __init__(self, path: Path, record: SamplingRecord, animation: Animation | None = None):
        self.path, self.record, self.animation = path, record, animation or Animation()
        self.keep_in_memory: Collection[str] = ()
        self._in_memory: dict[str, torch.Tensor] = {}
        record.require_same_images(path)

    def __str__(self) -> str:
        return shown(self.path)

    def file(self, name: str) -> Path:
        return self.path / f"{name}.png"

    def has(self, name: str) -> bool:
        """Whether the image's file is complete: each part of a PNG file has a checksum."""
        try:
            with Image.open(self.file(name)) as image:
                image.verify()
        except (OSError, ValueError, SyntaxError, EOFError):
            return False
        return True

    def add(self, name: str, image: torch.Tensor, writer: ImageWriter) -> None:
        """Write an image, uint8 [3, H, W], unless its file is complete or the record is of another image only."""
        if self.record.only not in (None, name) or self.has(name):
            return
        if name in self.keep_in_memory:
            self._in_memory[name] = image
        writer.save(image, self.file(name), self.record.metadata(name))

    def images(self, names: Sequence[str]) -> torch.Tensor:
        """uint8 [B, 3, H, W]; their files must be complete."""
        kept = self._in_memory
        return torch.stack([kept[name] if name in kept else read(self.file(name)) for name in names])

    def save_figure(self, sheet: torch.Tensor, name: str, enlarge: bool = True) -> str:
        """Write a figure, uint8 [3, h, w], and return its file name. enlarge: small ones, so that they can be seen."""
        save = pixels.save_sheet if enlarge else pixels.save_png
        save(sheet, self.file(name), {"command": self.record.command})
        return f"{name}.png"
