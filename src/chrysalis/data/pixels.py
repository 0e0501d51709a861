"""uint8 <-> [-1, 1], grids and strips: the only home of value ranges."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chrysalis.system.files import written


def to_signed(image: torch.Tensor) -> torch.Tensor:
    """uint8 [B, C, H, W] in 0..255 -> float32 in [-1, 1]."""
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """float [B, C, H, W] in [-1, 1] (clamped) -> uint8, rounded half to even as stock diffusers pipelines do."""
    return ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def grid(images: torch.Tensor, columns: int | None = None, gap: int = 2) -> torch.Tensor:
    """uint8 [B, 3, H, W] -> one uint8 image [3, h, w] on white, about square or `columns` wide."""
    n, channels, height, width = images.shape
    columns = min(n, columns or max(1, round((n * height / width) ** 0.5 + 0.499)))
    rows = -(-n // columns)
    sheet = images.new_full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def strip(rows: Sequence[torch.Tensor], gap: int = 2) -> torch.Tensor:
    """Rows of equally many images, each uint8 [B, 3, H, W], one row above the other (before / after)."""
    return grid(torch.cat(list(rows)), columns=len(rows[0]), gap=gap)


def enlargement(width: int, least: int = 512) -> int:
    """The whole factor by which a sheet `width` pixels wide becomes `least` wide or a little more."""
    return max(1, -(-least // width))


def enlarged(image: torch.Tensor, factor: int) -> torch.Tensor:
    """uint8 [..., H, W], each pixel a square of `factor` pixels."""
    return image.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def as_image(image: torch.Tensor) -> Image.Image:
    """uint8 [3, H, W] -> PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def from_image(image: Image.Image) -> torch.Tensor:
    """PIL image in RGB -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def save_sheet(sheet: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
    """save_png of a sheet of images, enlarged where it would be too small to look at."""
    save_png(enlarged(sheet, enlargement(sheet.shape[-1])), path, text)


def save_png(image: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
    """Write a uint8 [3, H, W] image with optional text metadata; the file is complete or absent."""
    info = PngInfo()
    for name, value in (text or {}).items():
        info.add_text(name, value)
    image = as_image(image)
    with written(path) as partial:
        image.save(partial, format="PNG", pnginfo=info)
