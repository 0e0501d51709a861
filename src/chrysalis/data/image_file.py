"""A single image file named by a configuration key, for guidance, editing or conditioning."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from chrysalis.data import pixels
from chrysalis.data.formats import PluginMissing, open_image, read_bytes
from chrysalis.data.masks import to_mask
from chrysalis.data.transforms import CONVERSIONS, fit, upright_size
from chrysalis.system.errors import UserError, require_path
from chrysalis.system.terminal import warn


class ImageFile:
    """An image, read on construction, so that errors appear before sampling starts. key: the configuration key."""

    def __init__(self, path: str, key: str):
        self.path, self.key, file = str(path), key, require_path(key, path)
        try:
            self.image = open_image(read_bytes(file))
            self.size = upright_size(self.image)
            self.image.load()  # no converted copy: it would lose the TIFF tags
        except Exception as error:  # Pillow raises a dozen kinds on damaged images
            why = error if isinstance(error, PluginMissing) else "give another image file"
            raise UserError(f"{key}={path} is not an image that can be read: {why}.") from error

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- few instances, which live as long as the command
    def at(self, size: tuple[int, int], spread: bool = False, channels: int = 3) -> torch.Tensor:
        """Crop the center to (height, width): uint8 [1, C, height, width], grey, RGB or RGBA.

        spread: take pixels evenly from the whole image instead, to sample its colors.
        """
        image = fit(self._converted(CONVERSIONS[channels]), size, "stretch" if spread else "crop", nearest=spread)
        return pixels.from_image(image)[None]

    def require_shape_of(self, other: "ImageFile") -> None:
        """Require the aspect ratio of another image: cropped to one size, the two would not align otherwise."""
        (w, h), (other_w, other_h) = self.size, other.size
        if abs(w * other_h - h * other_w) > 0.02 * w * other_h:
            raise UserError(
                f"{self.key}={self.path} is {w} x {h} pixels and {other.key} is {other_w} x {other_h}: give images of "
                "the same shape."
            )

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def mask_at(self, size: tuple[int, int], hole: bool = False, strict: bool = True) -> torch.Tensor:
        """Return float32 [1, 1, height, width], 1 inside and 0 outside.

        Args:
            hole: see to_mask.
            strict: raise UserError for a mask that is all inside or all outside; False: only warn.
        """
        inside = fit(self._converted(functools.partial(to_mask, hole=hole)), size, "crop", nearest=True)
        mask = torch.from_numpy(np.array(inside))[None, None].float() / 255
        if mask.mean() in (0, 1):
            found = f"all {'white' if mask.mean() else 'black'} at {size[1]} x {size[0]} px"
            if strict:
                raise UserError(f"{self.key}={self.path} is {found}: it must have white and black parts.")
            warn(f"{self.key}={self.path} is {found}: make the subject white and the rest black.")
        return mask

    def _converted(self, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
        try:
            return convert(self.image)
        except ValueError as error:
            raise UserError(f"{self.key}={self.path} cannot be used: {error}.") from error
