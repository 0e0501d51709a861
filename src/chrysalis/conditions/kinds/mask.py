"""A silhouette of the subject for each image, as one more channel of conv_in."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from chrysalis.conditions.conditioner import InputChannels
from chrysalis.conditions.kind import Kind
from chrysalis.conditions.kinds.image import image_files
from chrysalis.data import pixels
from chrysalis.data.batch import Batch
from chrysalis.data.synthetic.domains import DOMAINS, draw
from chrysalis.data.transforms import mask_to_training_size

UNSEEN_SEED = 2  # seed of images that no drawn dataset contains, since those use 0


class Mask(Kind[InputChannels]):
    """Where the subject is: 1 inside and -1 outside."""

    name = column = noun = "mask"
    remedy = "add them with data.masks=FOLDER, mask_file_name in the metadata, or data.mask_column of a hub dataset"
    example = "mask=FILE.png"
    reads_files = True

    def of_batch(self, batch: Batch) -> torch.Tensor:
        return pixels.to_signed(super().of_batch(batch))

    def parse(self, key: str, given: Any) -> Callable[[int, tuple[int, int]], torch.Tensor]:
        if given in DOMAINS:
            return lambda seed, size: drawn_mask(given, seed, size)
        file = image_files(key, given)
        return lambda seed, size: 2 * file(seed).mask_at(size, strict=False)[0] - 1

    def describe(self) -> str:
        return "`[1, H, W]`, 1 inside and -1 outside"


def drawn_mask(domain: str, seed: int, size: tuple[int, int]) -> torch.Tensor:
    """float32 [1, H, W], 1 inside and -1 outside, of a drawn image that no drawn dataset contains."""
    mask = Image.fromarray(draw(domain, seed, UNSEEN_SEED, max(size)).mask)
    return pixels.to_signed(torch.from_numpy(mask_to_training_size(mask, size, "crop").copy()))
