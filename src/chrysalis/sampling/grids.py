"""Images from files, and figures made of several images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from chrysalis.data import pixels
from chrysalis.data.color import to_rgb
from chrysalis.data.pixels import as_image, strip


def read(path: Path) -> torch.Tensor:
    """Read an image file as uint8 [3, H, W]."""
    with Image.open(path) as image:
        return pixels.from_image(to_rgb(image))


def table(rows: Sequence[tuple[str, torch.Tensor]], enlarge: int = 1, gap: int = 3) -> Image.Image:
    """Arrange rows of images, uint8 [B, C, H, W], each beside its name; long names are broken into lines.

    enlarge: each pixel becomes a square of this many pixels a side.
    """
    font = ImageFont.load_default(12)
    names = ["\n".join(textwrap.wrap(name, 28, max_lines=4, placeholder=" ...")) for name, _ in rows]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = 14 + round(max(ruler.multiline_textbbox((0, 0), name, font)[2] for name in names))
    strips = [as_image(strip([pixels.enlarged(row, enlarge)], gap)) for _, row in rows]
    width, height = margin + max(s.width for s in strips), sum(s.height + gap for s in strips) - gap
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for name, image in zip(names, strips, strict=True):
        at = (margin - 10, top + image.height // 2)
        ImageDraw.Draw(sheet).multiline_text(at, name, "#333333", font, anchor="rm", align="right")
        sheet.paste(image, (margin, top))
        top += image.height + gap
    return sheet


def enlarged_table(rows: Sequence[tuple[str, torch.Tensor]], gap: int = 3) -> torch.Tensor:
    """The table of rows as uint8 [3, h, w], enlarged as `pixels.save_sheet` enlarges small sheets."""
    width = max(pixels.strip([images], gap).shape[-1] for _, images in rows)
    return pixels.from_image(table(rows, pixels.enlargement(width), gap))


def enlarged_to(image: torch.Tensor, least: int = 128) -> torch.Tensor:
    """Enlarge an image, uint8 [3, H, W], by a whole factor, so that the shorter side has at least `least` pixels."""
    return pixels.enlarged(image, pixels.enlargement(min(image.shape[-2:]), least))
