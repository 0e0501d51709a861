"""From a decoded set to batches: an order that is a pure function of (seed, pass), shards and exact windows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from chrysalis import seeds
from chrysalis.batch import Batch
from chrysalis.data.store import PictureSet


@dataclass(frozen=True)
class Request:
    """One micro-batch as the sampler asks for it: places in `rows`, and what Batch carries beside pictures."""

    rows: np.ndarray
    keys: np.ndarray
    u: np.ndarray
    window: int


class Order(Sampler[Request]):
    """Micro-batches of every pass over `rows`.

    batch_size: pictures a process and micro-batch. accumulate: micro-batches an optimizer step, so that each
    knows its window. rank, world: this process takes every world-th picture of each joint micro-batch.
    done: returns how many micro-batches the run has had when an iterator starts, so that it continues there.
    The last micro-batch of a pass is shorter, and so is the last window; none is dropped unless a rank
    would go without a picture.
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
        self.joint, self.rank, self.world, self.done = batch_size * world, rank, world, done
        n = len(self.rows)
        self.usable = n if n % self.joint == 0 or n % self.joint >= world else n - n % self.joint

    def __len__(self) -> int:
        return -(-self.usable // self.joint)

    def window(self, micro_batch: int) -> int:
        """Pictures, over all ranks, in the accumulation window that a micro-batch of a pass belongs to."""
        first = micro_batch // self.accumulate * self.accumulate * self.joint
        return min(self.usable, first + self.accumulate * self.joint) - first

    def __iter__(self) -> Iterator[Request]:
        one_pass, start = divmod(self.done(), len(self))
        order = self.rows[seeds.permutation(len(self.rows), self.seed, "order", one_pass).numpy()]
        u = seeds.low_discrepancy(len(self.rows), self.seed, "timesteps", one_pass).numpy()
        for micro_batch in range(start, len(self)):
            at = slice(micro_batch * self.joint, min((micro_batch + 1) * self.joint, self.usable))
            rows, places = order[at][self.rank :: self.world], u[at][self.rank :: self.world]
            keys = np.array([seeds.key(self.seed, "noise", one_pass, int(row)) for row in rows])
            yield Request(rows, keys, places, self.window(micro_batch))


class Pictures(Dataset):
    """Answers a Request with a Batch; `flip` mirrors half of the pictures, each by a bit of its own key."""

    def __init__(self, pictures: PictureSet, flip: bool):
        self.pictures, self.flip = pictures, flip

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, request: Request) -> Batch:
        return batch(self.pictures, request, self.flip)


def batch(pictures: PictureSet, request: Request, flip: bool) -> Batch:
    """The rows of `request`. Where a picture is mirrored, so are its mask and its conditioning image."""
    rows = np.asarray(request.rows)
    flipped = torch.from_numpy((request.keys >> 7) % 2 == 1).view(-1, 1, 1, 1)

    def taken(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(values[rows])

    def mirrored(values: np.ndarray | None) -> torch.Tensor | None:
        here = taken(values)
        return torch.where(flipped, here.flip(-1), here) if flip and here is not None else here

    return Batch(
        mirrored(pictures.images),
        torch.from_numpy(rows),
        torch.from_numpy(request.keys),
        torch.from_numpy(request.u),
        request.window,
        taken(pictures.labels),
        None if pictures.captions is None else tuple(pictures.captions[i] for i in rows),
        mirrored(pictures.masks),
        mirrored(pictures.conditionings),
        taken(pictures.vectors),
    )


def loader(pictures: PictureSet, order: Order, flip: bool, num_workers: int = 0) -> DataLoader:
    """Batches in `order`. Without workers the main process reads the memory-mapped store, which is rarely slower."""
    return DataLoader(
        Pictures(pictures, flip),
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="spawn" if num_workers else None,
    )
