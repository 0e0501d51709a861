"""The batch that travels from the loader to the loss."""

from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True)
class Batch:
    """B images of one micro-batch.

    Attributes:
        image: uint8 [B, 3, H, W].
        row: int64 [B], the row of each image in its set.
        key: int64 [B], the noise seed of each image: a pure function of (seed, epoch, row).
        u: float32 [B] in [0, 1), the position of each image's timestep in [0, T).
        window: number of images, over all processes, in the optimizer step that this micro-batch belongs to.
        label: int64 [B], -1 where unknown.
        caption: B strings.
        mask: uint8 [B, 1, H, W], 0 or 255.
        conditioning: uint8 [B, 3, H, W], another image of the same scene.
        vector: float32 [B, D], measurements, NaN where unknown.
    """

    image: torch.Tensor
    row: torch.Tensor
    key: torch.Tensor
    u: torch.Tensor
    window: int
    label: torch.Tensor | None = None
    caption: tuple[str, ...] | None = None
    mask: torch.Tensor | None = None
    conditioning: torch.Tensor | None = None
    vector: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def parts(self, n: int) -> "list[Batch]":
        """Split into at most n batches of about equal length, in order, each with the window of the whole."""
        size = -(-len(self) // n)
        return [self._slice(slice(i, i + size)) for i in range(0, len(self), size)]

    def _slice(self, places: slice) -> "Batch":
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "window"}
        return replace(self, **{name: None if value is None else value[places] for name, value in columns.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Move all tensors to `device` except `row` and `key`, which are read on the host."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor) and f.name not in ("row", "key")
        }
        return replace(self, **moved)
