"""Batches of a decoded set, in an order that is a pure function of (seed, epoch), sharded over processes."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from chrysalis.data.batch import Batch
from chrysalis.data.columns import COLUMNS
from chrysalis.data.decoding import FreshContext
from chrysalis.data.store import ImageSet
from chrysalis.diffusion import seeds


@dataclass(frozen=True)
class Rows:
    """One micro-batch as the sampler requests it: row numbers, and the fields of Batch that come with them."""

    rows: np.ndarray
    keys: np.ndarray
    u: np.ndarray
    window: int


class Order(Sampler[Rows]):
    """The micro-batches of an epoch: `rows` in random order.

    The last micro-batch of an epoch is shorter, and so is its last accumulation window; none is dropped unless a rank
    would have no image.

    Args:
        batch_size: images per process and micro-batch.
        accumulate: micro-batches per optimizer step, which determine Batch.window.
        rank, world: this process takes every world-th image of each global micro-batch, starting at `rank`.
        done: returns the number of micro-batches that the run has trained on; an iterator starts after them.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        done: Callable[[], int] = lambda: 0,
    ):
        self.rows, self.seed, self.accumulate = np.asarray(rows), seed, accumulate
        self.global_size, self.rank, self.world, self.done = batch_size * world, rank, world, done
        n = len(self.rows)
        self.usable = n if n % self.global_size == 0 or n % self.global_size >= world else n - n % self.global_size

    def __len__(self) -> int:
        return -(-self.usable // self.global_size)

    def __iter__(self) -> Iterator[Rows]:
        epoch, start = divmod(self.done(), len(self))
        order = self.rows[seeds.permutation(len(self.rows), self.seed, "order", epoch).numpy()]
        u = seeds.low_discrepancy(len(self.rows), self.seed, "timesteps", epoch).numpy()
        for micro_batch in range(start, len(self)):
            at = slice(micro_batch * self.global_size, min((micro_batch + 1) * self.global_size, self.usable))
            rows, fractions = order[at][self.rank :: self.world], u[at][self.rank :: self.world]
            keys = np.array([seeds.key(self.seed, "noise", epoch, int(row)) for row in rows])
            first = micro_batch // self.accumulate * self.accumulate * self.global_size  # where its window begins
            yield Rows(rows, keys, fractions, min(self.usable, first + self.accumulate * self.global_size) - first)


class BatchDataset(Dataset):
    """Batches, indexed by Rows; `flip` mirrors half of the images, chosen by a bit of each image's key.

    device: where the decoded set is kept and batches are assembled. On the CPU the set is the memory-mapped store,
    which is in the page cache after the first epoch. moments: the file of the encoded images, see data/encoded.py.
    """

    def __init__(
        self, image_set: ImageSet, flip: bool, device: torch.device | str = "cpu", moments: Path | None = None
    ):
        self.image_set, self.flip, self.file = image_set, flip, moments
        self.moments = None if moments is None else np.load(moments, mmap_mode="r")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing writes to them
            self.arrays = {name: torch.from_numpy(array).to(device) for name, array in image_set.arrays().items()}

    def __reduce__(self):
        """Pickle the memory-mapped store instead of the images."""
        return BatchDataset, (self.image_set, self.flip, "cpu", self.file)

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, index: Rows) -> Batch:
        """Return the batch of these rows. A mirrored image has its mask and its conditioning image mirrored too."""
        rows, keys = np.asarray(index.rows), index.keys
        mirrored = np.flatnonzero((keys >> 7) % 2) if self.flip else np.empty(0, np.int64)
        columns: dict[str, Any] = {name: _select(array, rows, mirrored) for name, array in self.arrays.items()}
        for name, values in self.image_set.columns.items():
            if name not in columns:
                selected = COLUMNS[name].select(values, rows, keys)
                columns[name] = torch.from_numpy(selected) if isinstance(selected, np.ndarray) else selected
        image, moments = columns.pop("image"), None
        if self.moments is not None:
            moments = torch.from_numpy(self.moments[rows, np.isin(np.arange(len(rows)), mirrored).astype(int)])
        row, key, u = map(torch.from_numpy, (rows, keys, index.u))
        return Batch(image, row, key, u, index.window, columns, moments)


def _select(array: torch.Tensor, rows: np.ndarray, mirrored: np.ndarray) -> torch.Tensor:
    """Return array[rows], uint8 [B, C, H, W], on its device, with the batch positions `mirrored` flipped left-right."""
    selected = array.index_select(0, torch.from_numpy(rows).to(array.device))
    if len(mirrored):
        positions = torch.from_numpy(mirrored).to(array.device)
        selected.index_copy_(0, positions, selected.index_select(0, positions).flip(-1))
    return selected


def loader(dataset: BatchDataset, order: Order, num_workers: int = 0) -> DataLoader:
    """Return a DataLoader of batches in `order`. Workers are rarely faster than the main process."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context=FreshContext() if num_workers else None,
    )
