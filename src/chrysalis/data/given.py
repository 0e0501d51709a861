"""A single picture that the user names: to guide by, to start from, to fill in."""

import functools
import io

import torch
from PIL import Image

from chrysalis import pixels
from chrysalis.data.picture import contents
from chrysalis.data.transforms import fit, mask_to_training_size, to_rgb
from chrysalis.errors import UserError, require_path


class Given:
    """Read at once, so that a mistake is told before anything is drawn. key: what the user set it by."""

    def __init__(self, path: str, key: str):
        self.path, self.key = str(path), key
        try:
            with Image.open(io.BytesIO(contents(require_path(key, path)))) as image:
                image.load()
                self.image = image.copy()
        except UserError:
            raise
        except Exception as error:  # a damaged picture makes Pillow raise a dozen kinds
            raise UserError(f"{key}={path} is not a picture that can be read.") from error

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- one of a few, and it lives as long as the command
    def at(self, size: tuple[int, int]) -> torch.Tensor:
        """float32 [1, 3, height, width] in [-1, 1], the centre cropped to that shape."""
        return pixels.to_signed(pixels.from_image(fit(to_rgb(self.image), size, "crop")))[None]

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def spread_over(self, size: tuple[int, int]) -> torch.Tensor:
        """float32 [1, 3, height, width]: pixels taken evenly from the whole picture, as a set of its colours."""
        return pixels.to_signed(pixels.from_image(fit(to_rgb(self.image), size, "stretch", nearest=True)))[None]

    def require_shape_of(self, other: "Given") -> None:
        """Refuse another shape than the other picture's: cropped to one size, the two would not lie on each other."""
        (w, h), (other_w, other_h) = self.image.size, other.image.size
        if abs(w * other_h - h * other_w) > 0.02 * w * other_h:
            raise UserError(
                f"{self.key}={self.path} is {w} x {h} pixels and {other.key} {other_w} x {other_h}: the two must have "
                "the same shape."
            )

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def mask_at(self, size: tuple[int, int]) -> torch.Tensor:
        """float32 [1, 1, height, width], 1 where the picture is light, 0 where it is dark."""
        mask = torch.from_numpy(mask_to_training_size(self.image, size, "crop").copy())[None].float() / 255
        if mask.mean() in (0, 1):
            raise UserError(f"{self.key}={self.path} must have white and black parts.")
        return mask
