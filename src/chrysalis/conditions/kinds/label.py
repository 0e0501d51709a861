"""A class label for each image, as a learned embedding."""

import difflib
from contextlib import suppress
from typing import Any

from chrysalis.conditions.conditioner import Conditioner, LabelEmbedding
from chrysalis.conditions.kind import Kind
from chrysalis.data.batch import Batch
from chrysalis.data.columns import composed
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError, did_you_mean
from chrysalis.system.ranges import Channels
from chrysalis.system.terminal import say


class Label(Kind[LabelEmbedding]):
    """One of a set of names for each image.

    dim: width of the learned embedding. add: give a loaded model those labels of the data that it does not know, which
    is always done for a model that knows none of them.
    """

    name = column = noun = "label"
    remedy = (
        "put the images into one folder per label, give `label` in a metadata.jsonl, or set data.label_column of a hub "
        "dataset"
    )
    example = "label=all guidance=cfg guidance.scale=2"

    def __init__(self, dim: Channels = 64, add: bool = False):
        self.dim, self.add = dim, add

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        return {"names": list(image_set.value_names[self.column]), "dim": self.dim}

    def prepare(self, data: Any, conditioner: Conditioner) -> None:
        own = data.image_set.value_names[self.column]
        new = [name for name in own if composed(name) not in self.part.names]
        if new and (self.add or len(new) == len(own)):
            conditioner.add_labels(self.name, new)
            say(f"the model gets {len(new)} new labels: {', '.join(new[:5])}{', ...' * (len(new) > 5)}")
        data.use_labels(self.part.names, self.column)

    def caption(self, batch: Batch, i: int) -> str:
        index = int(self.of_batch(batch)[i])
        return self.part.names[index] if index >= 0 else "no label"

    def listed(self, key: str, given: Any) -> list:
        return list(self.part.names) if given == "all" else super().listed(key, given)

    def parse(self, key: str, given: Any) -> int:
        with suppress(ValueError):
            return self.part.index(str(given))
        hint = did_you_mean(difflib.get_close_matches(str(given), self.part.names, 1))
        more = f" and {len(self.part.names) - 40} more" if len(self.part.names) > 40 else ""
        known = ", ".join(self.part.names[:40])
        raise UserError(f"{key}={given} is unknown to this model{hint} Choose from {known}{more}.")

    def hint(self) -> str:
        return f"label=NAME, or label=all for {', '.join(self.part.names[:12])}"

    def describe(self) -> str:
        return ", ".join(self.part.names)
