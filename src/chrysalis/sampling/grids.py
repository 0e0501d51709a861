"""Sheets and films of images that lie in a folder or were kept on the way."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from chrysalis.data import pixels
from chrysalis.data.pixels import as_image, strip
from chrysalis.system.errors import UserError
from chrysalis.system.files import written

FORMATS = ("gif", "webp", "mp4")


def require_formats(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"animation.formats={list(formats)}: {name} is unknown, choose of {', '.join(FORMATS)}.")


def read(path: Path) -> torch.Tensor:
    """uint8 [3, H, W]."""
    with Image.open(path) as image:
        return pixels.from_image(image.convert("RGB"))


def save_grid(out: Path, names: Sequence[str], text: dict[str, str], columns: int | None = None) -> None:
    """grid.png of the named images in `out`."""
    sheet = pixels.grid(torch.stack([read(out / f"{name}.png") for name in names]), columns)
    pixels.save_sheet(sheet, out / "grid.png", text)


def table(rows: Sequence[tuple[str, torch.Tensor]], enlarge: int = 1, gap: int = 3) -> Image.Image:
    """A row of images, uint8 [B, 3, H, W], beside each name; long names are broken into lines.

    enlarge: each pixel is a square of so many.
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


def legible(rows: Sequence[tuple[str, torch.Tensor]], gap: int = 3) -> torch.Tensor:
    """The table of rows, uint8 [3, h, w], enlarged as a sheet is that is saved."""
    width = max(pixels.strip([images], gap).shape[-1] for _, images in rows)
    return pixels.from_image(table(rows, pixels.enlargement(width), gap))


def enlarged(image: torch.Tensor, least: int = 128) -> torch.Tensor:
    """uint8 [3, H, W], each pixel a square, so that the shorter side is at least `least`."""
    return pixels.enlarged(image, pixels.enlargement(min(image.shape[-2:]), least))


def save_film(frames: Sequence[torch.Tensor], path: Path, formats: Sequence[str], seconds: float) -> None:
    """path.gif, path.webp, path.mp4 from frames uint8 [3, h, w]; the last one stays a second longer."""
    images = [np.ascontiguousarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    each = seconds / len(images)
    rest = min(100, max(1, round(1 / each)))
    for name in formats:
        if name == "mp4":
            # H.264 in 4:2:0, which every player knows, wants even sides
            even = [image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2] for image in images]
            animation = np.stack(even + [even[-1]] * rest)
            rate = min(100.0, max(0.1, round(1 / each, 1)))
            data = iio.imwrite("<bytes>", animation, extension=".mp4", plugin="pyav", codec="libx264", fps=rate)
        else:
            times = [round(1000 * each)] * (len(images) - 1) + [round(1000 * (each + 1))]
            data = iio.imwrite("<bytes>", np.stack(images), extension=f".{name}", duration=times, loop=0)
        with written(path.with_suffix(f".{name}")) as partial:
            partial.write_bytes(data)
