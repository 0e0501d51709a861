"""The one batch that travels from the loader to the loss."""

from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True)
class Batch:
    """B images of one micro-batch.

    image:  uint8 [B, 3, H, W].
    row:    int64 [B], the row of each image in its set.
    key:    int64 [B], the noise seed of each image: a pure function of (seed, pass, row).
    u:      float32 [B] in [0, 1), where each image's timestep lies in [0, T).
    window: how many images, over all processes, the optimizer step that this micro-batch belongs to sees.
    label:  int64 [B] or None; caption: B strings or None; mask: uint8 [B, 1, H, W] (0 or 255) or None.
    conditioning: uint8 [B, 3, H, W], another image of the same scene, or None.
    vector: float32 [B, D], measurements, NaN where unknown, or None.
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
        """At most n batches of about equal length, in order; the window stays that of the whole."""
        size = -(-len(self) // n)
        return [self._at(slice(i, i + size)) for i in range(0, len(self), size)]

    def _at(self, places: slice) -> "Batch":
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "window"}
        return replace(self, **{name: None if value is None else value[places] for name, value in own.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """All tensors on `device` but `row` and `key`, which stay on the host, where they are read."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor) and f.name not in ("row", "key")
        }
        return replace(self, **moved)
