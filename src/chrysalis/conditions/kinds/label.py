"""A class label for each image, as a learned embedding."""

import difflib
from contextlib import suppress
from typing import Any

import torch

from chrysalis.conditions.conditioner import LabelEmbedding
from chrysalis.conditions.kind import Kind
from chrysalis.data.batch import Batch
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError, require_whole


class Label(Kind[LabelEmbedding]):
    """One of a set of names for each image. dim: of the learned embedding."""

    name = "label"
    example = "label=all guidance=cfg guidance.scale=2"

    def __init__(self, dim: int = 64):
        require_whole("condition.label.dim", dim)
        self.dim = dim

    def require(self, image_set: ImageSet, source: str) -> None:
        if image_set.labels is None:
            raise UserError(
                f"condition=label, but {source} has no labels: put the images into one folder per label, "
                "give `label` in a metadata.jsonl, or set data.label_column of a hub dataset."
            )

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        return {"names": list(image_set.label_names), "dim": self.dim}

    def prepare(self, part: LabelEmbedding, data: Any) -> None:
        data.use_labels(part.names)

    @staticmethod
    def of_batch(part: LabelEmbedding, batch: Batch) -> torch.Tensor:
        assert batch.label is not None
        return batch.label

    @staticmethod
    def caption(part: LabelEmbedding, batch: Batch, i: int) -> str:
        index = int(Label.of_batch(part, batch)[i])
        return part.names[index] if index >= 0 else "no label"

    @classmethod
    def listed(cls, part: LabelEmbedding, key: str, given: Any) -> list:
        return list(part.names) if given == "all" else super().listed(part, key, given)

    @classmethod
    def parse(cls, part: LabelEmbedding, key: str, given: Any) -> int:
        with suppress(ValueError):
            return part.index(str(given))
        near = difflib.get_close_matches(str(given), part.names, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        more = f" and {len(part.names) - 40} more" if len(part.names) > 40 else ""
        known = ", ".join(part.names[:40]) + more
        raise UserError(f"{key}={given} is unknown to this model.{hint} It knows {known}.")

    @classmethod
    def hint(cls, part: LabelEmbedding) -> str:
        return f"label=NAME, or label=all for {', '.join(part.names[:12])}"

    @staticmethod
    def describe(part: LabelEmbedding) -> str:
        return ", ".join(part.names)
