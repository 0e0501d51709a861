"""Conversions between uint8 and [-1, 1], image grids and PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chrysalis.data.batch import Batch
from chrysalis.system.files import written

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey image, ITU-R BT.601


def to_signed(image: torch.Tensor) -> torch.Tensor:
    """Convert uint8 [B, C, H, W] in 0..255 to float32 in [-1, 1]."""
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Convert float [B, C, H, W] in [-1, 1] (clamped) to uint8, rounded half to even as diffusers pipelines do."""
    return ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


class PixelCodec:
    """Conversion between images and x_0 of a pixel-space model: x_0 is the image, scaled to [-1, 1].

    channels: number of image channels: 1 grey, 3 RGB, 4 RGBA. factor: pixels per element of x_0, along each side.
    """

    channels = 3
    factor = 1

    @property
    def is_ready(self) -> bool:
        """Whether it can encode; False while an autoencoder still has to be trained."""
        return True

    @property
    def x0_channels(self) -> int:
        """Number of channels of x_0."""
        return self.channels

    def weights(self) -> list[torch.Tensor]:
        """The weights of an autoencoder, if there is one."""
        return []

    def encode_batch(self, batch: Batch) -> torch.Tensor:
        """The x_0 that a training step starts from, float32 [B, C, H, W]."""
        return self.encode(batch.image)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Convert uint8 images [B, C, H, W] to float32 x_0."""
        return to_signed(images)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Convert x_0 to uint8 images [B, C, H, W]."""
        return to_uint8(x)

    def rgb(self, x: torch.Tensor) -> torch.Tensor:
        """Convert x_0, differentiably, to the RGB image that it shows, float [B, 3, H, W] in [-1, 1], over white."""
        if x.shape[1] < 4:
            return x.expand(-1, 3, -1, -1)
        alpha = (x[:, 3:] / 2 + 0.5).clamp(0, 1)
        return x[:, :3] * alpha + (1 - alpha)


def grid(images: torch.Tensor, columns: int | None = None, gap: int = 2) -> torch.Tensor:
    """Arrange uint8 [B, C, H, W] on white as one uint8 image [C, h, w], about square or `columns` wide."""
    n, channels, height, width = images.shape
    columns = min(n, columns or max(1, round((n * height / width) ** 0.5 + 0.499)))
    rows = -(-n // columns)
    sheet = images.new_full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def strip(rows: Sequence[torch.Tensor], gap: int = 2) -> torch.Tensor:
    """Stack rows with the same number of images, each uint8 [B, C, H, W], as RGB, for example before and after."""
    return grid(torch.cat([as_rgb(row) for row in rows]), columns=len(rows[0]), gap=gap)


def enlargement(width: int, least: int = 512) -> int:
    """Return the smallest integer factor that makes a sheet of `width` pixels at least `least` wide."""
    return max(1, -(-least // width))


def enlarged(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Repeat each pixel of uint8 [..., H, W] `factor` times in both directions."""
    return image.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def as_image(image: torch.Tensor) -> Image.Image:
    """Convert uint8 [C, H, W], grey, RGB or RGBA, to a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).contiguous().cpu().numpy())


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 [B, C, H, W], grey, RGB or RGBA, to RGB: transparent pixels are composited over white."""
    if images.shape[1] < 4:
        return images.expand(-1, 3, -1, -1)
    color, alpha = images[:, :3].float(), images[:, 3:].float() / 255
    return (color * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def from_image(image: Image.Image) -> torch.Tensor:
    """Convert a grey, RGB or RGBA PIL image to uint8 [C, H, W]."""
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).contiguous()


def save_sheet(sheet: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
    """Write a sheet of images as PNG, enlarged if it is small."""
    save_png(enlarged(sheet, enlargement(sheet.shape[-1])), path, text)


def save_png(image: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
    """Write uint8 [C, H, W], grey, RGB or RGBA, with optional text metadata. The file is complete or absent."""
    info = PngInfo()
    for name, value in (text or {}).items():
        info.add_text(name, value)
    with written(path) as partial:
        as_image(image).save(partial, format="PNG", pnginfo=info)
