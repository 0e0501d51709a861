"""A single image that the user names: to guide by, to start from, to fill in."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from chrysalis.data import pixels
from chrysalis.data.color import to_rgb
from chrysalis.data.example import contents
from chrysalis.data.formats import PluginMissing, open_image
from chrysalis.data.masks import marked
from chrysalis.data.transforms import fit, upright_size
from chrysalis.system.errors import UserError, require_path
from chrysalis.system.terminal import warn


class ImageFile:
    """Read at once, so that a mistake is told before anything is drawn. key: what the user set it by."""

    def __init__(self, path: str, key: str):
        self.path, self.key = str(path), key
        try:
            self.image = open_image(contents(require_path(key, path)))
            self.size = upright_size(self.image)
            self.image.load()  # it stays what was opened: a copy would not know its TIFF tags
        except UserError:
            raise
        except Exception as error:  # a damaged image makes Pillow raise a dozen kinds
            raise UserError(f"{key}={path} is not an image that can be read{_missing(error)}.") from error

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- one of a few, and it lives as long as the command
    def at(self, size: tuple[int, int]) -> torch.Tensor:
        """float32 [1, 3, height, width] in [-1, 1], the centre cropped to that shape."""
        return pixels.to_signed(pixels.from_image(fit(self._read_by(to_rgb), size, "crop")))[None]

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def spread_over(self, size: tuple[int, int]) -> torch.Tensor:
        """float32 [1, 3, height, width]: pixels taken evenly from the whole image, as a set of its colours."""
        return pixels.to_signed(pixels.from_image(fit(self._read_by(to_rgb), size, "stretch", nearest=True)))[None]

    def require_shape_of(self, other: "ImageFile") -> None:
        """Refuse another shape than the other image's: cropped to one size, the two would not lie on each other."""
        (w, h), (other_w, other_h) = self.size, other.size
        if abs(w * other_h - h * other_w) > 0.02 * w * other_h:
            raise UserError(
                f"{self.key}={self.path} is {w} x {h} pixels and {other.key} {other_w} x {other_h}: the two must have "
                "the same shape."
            )

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def mask_at(self, size: tuple[int, int], hole: bool = False, both: bool = True) -> torch.Tensor:
        """float32 [1, 1, height, width], 1 where `marked` finds the inside, 0 outside. hole: see there.

        both: refuse a mask that has no inside or no outside; else warn of it.
        """
        inside = fit(self._read_by(functools.partial(marked, hole=hole)), size, "crop", nearest=True)
        mask = torch.from_numpy(np.array(inside))[None, None].float() / 255
        if mask.mean() in (0, 1):
            if both:
                raise UserError(f"{self.key}={self.path} must have white and black parts.")
            warn(f"{self.key}={self.path} is {'full' if mask.mean() else 'empty'} at {size[1]} x {size[0]} px.")
        return mask

    def _read_by(self, converted: Callable[[Image.Image], Image.Image]) -> Image.Image:
        try:
            return converted(self.image)
        except ValueError as error:
            raise UserError(f"{self.key}={self.path} cannot be used: {error}.") from error


def _missing(error: Exception) -> str:
    """What to install for it, if that is all."""
    return f": {error}" if isinstance(error, PluginMissing) else ""
