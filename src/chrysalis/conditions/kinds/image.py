"""Another image for each image, given with the data or derived from it, as three more channels of conv_in."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch.nn import functional as F

from chrysalis.conditions.conditioner import InputChannels
from chrysalis.conditions.kind import Kind
from chrysalis.data import pixels
from chrysalis.data.batch import Batch
from chrysalis.data.formats import suffixes
from chrysalis.data.image_file import ImageFile
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError, require_path


class Image(Kind[InputChannels]):
    """An RGB image. source: `given` with the data, or derived from the training image: `grey` or `small`."""

    name, column, noun = "image", "conditioning_image", "conditioning image"
    remedy = "add them with data.conditioning_images, data.conditioning_image_column or conditioning_image_file_name"
    example = "image=FILE.png"
    reads_files = True

    def __init__(self, source: Literal["given", "grey", "small"] = "given"):
        self.source: str = source

    @classmethod
    def of_part(cls, part: InputChannels) -> Self:
        kind = super().of_part(part)
        kind.source = part.source
        return kind

    def require(self, image_set: ImageSet, source: str) -> None:
        if self.source == "given":
            super().require(image_set, source)

    def require_match(self, part: InputChannels, image_set: ImageSet, source: str) -> None:
        if self.source != part.source:
            raise UserError(f"condition.image.source={self.source} does not fit this model: use {part.source}.")

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        return {"source": self.source}

    def of_batch(self, batch: Batch) -> torch.Tensor:
        image = super().of_batch(batch) if self.part.source == "given" else batch.image
        return derived(pixels.to_signed(pixels.as_rgb(image)), self.part.source)

    def parse(self, key: str, given: Any) -> Callable[[int, tuple[int, int]], torch.Tensor]:
        file = image_files(key, given)
        return lambda seed, size: derived(pixels.to_signed(file(seed).at(size)), self.part.source)[0]

    def describe(self) -> str:
        return "`[3, H, W]` in [-1, 1]"


def derived(x: torch.Tensor, source: str) -> torch.Tensor:
    """Derive the condition from images x [B, 3, H, W] in [-1, 1]; idempotent.

    source: `grey` removes color, so that a model learns to colorize; `small` keeps an eighth of the resolution, so that
    it learns to refine; `given` is x itself.
    """
    if source == "given":
        return x
    if source == "grey":
        return (x * x.new_tensor(pixels.LUMA).view(3, 1, 1)).sum(1, keepdim=True).expand_as(x).contiguous()
    size = [max(1, side // 8) for side in x.shape[-2:]]
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[-2:], mode="nearest")


def image_files(key: str, given: Any) -> Callable[[int], ImageFile]:
    """Map seeds to images: always one file, or the files of a folder in turn. The first is read now, to fail early."""
    path = require_path(key, given)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{key}={given} contains no images: name an image, or a folder of images.")
    first = ImageFile(str(files[0]), key)
    return lambda seed: ImageFile(str(files[seed % len(files)]), key) if len(files) > 1 else first
