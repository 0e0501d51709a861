"""A vector of numbers for each image, such as measurements or a color."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from chrysalis.conditions.conditioner import VectorEmbedding
from chrysalis.conditions.kind import Kind
from chrysalis.data.batch import Batch
from chrysalis.data.columns import composed
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Channels


class Vector(Kind[VectorEmbedding]):
    """D numbers for each image. dim: width of the small network that embeds them."""

    name, column, noun = "vector", "vector", "number"
    remedy = "name their columns in data.vector_columns=[wingspan,...]"
    example = "vector=[...]"

    def __init__(self, dim: Channels = 64):
        self.dim = dim

    def require(self, image_set: ImageSet, source: str) -> None:
        super().require(image_set, source)
        for name, values in zip(
            image_set.value_names[self.column], np.asarray(image_set.columns[self.column]).T, strict=True
        ):
            if np.isnan(values).all():
                raise UserError(f"data.vector_columns={name} has no number for any image of {source}: leave it out.")

    def require_match(self, part: VectorEmbedding, image_set: ImageSet, source: str) -> None:
        if tuple(map(composed, part.names)) != tuple(map(composed, image_set.value_names[self.column])):
            raise UserError(
                f"condition=vector, but the model is conditioned on {', '.join(part.names)}, and {source} has "
                f"{', '.join(image_set.value_names[self.column])}: name the same columns in the same order."
            )

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        vectors = np.asarray(image_set.columns[self.column])
        mean, std = (f(vectors, axis=0, dtype=np.float64) for f in (np.nanmean, np.nanstd))
        std = np.where(std > 1e-6 * np.abs(mean), std, 1)  # a constant column is only centered
        return {
            "names": list(image_set.value_names[self.column]),
            "mean": mean.tolist(),
            "std": std.tolist(),
            "dim": self.dim,
        }

    def caption(self, batch: Batch, i: int) -> str:
        return " ".join(f"{v:.2g}" for v in self.of_batch(batch)[i])

    def listed(self, key: str, given: Any) -> list:
        nested = isinstance(given, Sequence) and given and not isinstance(given[0], int | float | str)
        return list(given) if nested else [given]

    def parse(self, key: str, given: Any) -> tuple[float, ...]:
        names = self.part.names
        numbers = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        with suppress(TypeError, ValueError):
            if len(numbers) == len(names) and not any(isinstance(v, bool) for v in numbers):
                return tuple(float(v) for v in numbers)
        raise UserError(f"{key}={given} must be {len(names)} numbers: [{','.join(names)}].")

    def hint(self) -> str:
        return f"vector=[{', '.join(self.part.names[:12])}]"

    def describe(self) -> str:
        return f"[{', '.join(self.part.names)}]"
