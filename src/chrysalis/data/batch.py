"""The batch that travels from the loader to the loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Batch:
    """B images of one micro-batch.

    Attributes:
        image: uint8 [B, C, H, W].
        row: int64 [B], the row of each image in its set.
        key: int64 [B], the noise seed of each image: in training, a pure function of (seed, epoch, row).
        u: float32 [B] in [0, 1), the timestep of each image as a fraction of T.
        window: number of images, over all processes, in the optimizer step that this micro-batch belongs to.
        columns: label, caption and so on, where the data has them; types, shapes and unknown values are those of
            data/columns.py, for B instead of N rows.
        moments: float32 [B, K, h, w], what an autoencoder made of each image, see data/encoded.py; None: not encoded.
    """

    image: torch.Tensor
    row: torch.Tensor
    key: torch.Tensor
    u: torch.Tensor
    window: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    moments: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def parts(self, n: int) -> "list[Batch]":
        """Split into at most n batches of about equal length, in order; `window` stays the same."""
        size = -(-len(self) // n)
        return [self._slice(slice(i, i + size)) for i in range(0, len(self), size)]

    def _slice(self, rows: slice) -> "Batch":
        part = self._mapped(lambda value: value[rows])
        return replace(part, row=self.row[rows], key=self.key[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Move all tensors to `device` except `row` and `key`, which are read on the host."""
        return self._mapped(lambda v: v.to(device, non_blocking=non_blocking) if isinstance(v, torch.Tensor) else v)

    def _mapped(self, function: Callable[[Any], Any]) -> "Batch":
        columns = {name: function(value) for name, value in self.columns.items()}
        moments = None if self.moments is None else function(self.moments)
        return replace(self, image=function(self.image), u=function(self.u), columns=columns, moments=moments)
