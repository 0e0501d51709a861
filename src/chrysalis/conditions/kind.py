"""The interface of a condition kind: the data it needs, its part of the conditioner, its values and its messages."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch

from chrysalis.conditions.conditioner import Conditioner, Part
from chrysalis.data.batch import Batch
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError

P = TypeVar("P", bound=Part)
Value = int | str | tuple | Callable[[int, tuple[int, int]], torch.Tensor]

KINDS: "dict[str, type[Kind]]" = {}  # by name; every subclass of Kind registers itself


class Kind(Generic[P]):
    """A kind of condition, an option of the config group condition."""

    name: ClassVar[str]  # also the condition's key in sample.py
    column: ClassVar[str]  # the key of its values in Batch.columns
    noun: ClassVar[str]  # what one value is called
    remedy: ClassVar[str]  # how to give the data such values, for messages
    example: ClassVar[str]  # how sample.py is called with it
    reads_files: ClassVar[bool] = False  # whether sample.py takes paths
    part: P  # the conditioner's, once there is one

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        KINDS[cls.name] = cls

    @classmethod
    def of_part(cls, part: P) -> Self:
        """The kind of a loaded model's part."""
        kind = cls()
        kind.part = part
        return kind

    def require(self, image_set: ImageSet, source: str) -> None:
        """Raise UserError unless the data has what this kind reads."""
        if self.column in image_set.columns:
            return
        without = image_set.without.get(self.column, ())  # images without a value, if others have one
        if not without:
            raise UserError(f"condition={self.name}, but {source} has no {self.noun}s: {self.remedy}.")
        listed = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
        raise UserError(
            f"condition={self.name}, but {len(without)} of {len(image_set)} images of {source} have no {self.noun}: "
            f"{listed}. Add what is missing, or remove those images."
        )

    def require_match(self, part: P, image_set: ImageSet, source: str) -> None:
        """Raise UserError unless a loaded model's part fits this configuration and the data."""

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        """The settings of a new part for this data and UNet."""
        return {}

    def prepare(self, data: Any, conditioner: Conditioner) -> None:
        """Adapt the data module and the part, which is one of the conditioner's, to each other before training."""

    def of_batch(self, batch: Batch) -> Any:
        """The values of a batch, with the null for images that have none."""
        return batch.columns[self.column]

    def caption(self, batch: Batch, i: int) -> str | None:
        """Image i's value in words; None if this kind cannot be put into words."""
        return None

    def listed(self, key: str, given: Any) -> list:
        """The values that a user gave as one value or a list. key: the configuration key, for messages."""
        values = [given] if isinstance(given, str | int | float) else list(given)
        if any(value is None for value in values):
            raise UserError(f"{key}={given} has an empty value: leave it out of the list.")
        if not values:
            raise UserError(f"{key}=[] is empty: leave it out to sample without it.")
        return values

    def parse(self, key: str, given: Any) -> Value:
        """Check and convert one value that a user gave; an image becomes a function of (seed, (height, width))."""
        raise NotImplementedError

    def stack(self, values: Sequence, seeds: Sequence[int], size: tuple[int, int], device) -> Any:
        """The condition of B images from their parsed values and seeds. size: (height, width)."""
        if not callable(values[0]):
            return torch.tensor(values, device=device)
        return torch.stack([read(seed, size) for read, seed in zip(values, seeds, strict=True)]).to(device)

    def hint(self) -> str:
        """How to sample with this condition."""
        return self.example

    def describe(self) -> str:
        """The possible values, for the model card."""
        raise NotImplementedError
