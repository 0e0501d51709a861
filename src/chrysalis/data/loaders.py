"""From a decoded set to batches: an order that is a pure function of (seed, pass), shards and exact windows."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from chrysalis.data.batch import Batch
from chrysalis.data.store import ImageSet
from chrysalis.data.worker_processes import FreshContext
from chrysalis.diffusion import seeds


@dataclass(frozen=True)
class Rows:
    """One micro-batch as the sampler asks for it: places in `rows`, and what Batch carries beside images."""

    rows: np.ndarray
    keys: np.ndarray
    u: np.ndarray
    window: int


class Order(Sampler[Rows]):
    """Micro-batches of every pass over `rows`.

    batch_size: images a process and micro-batch. accumulate: micro-batches an optimizer step, so that each
    knows its window. rank, world: this process takes every world-th image of each joint micro-batch.
    done: returns how many micro-batches the run has had when an iterator starts, so that it continues there.
    The last micro-batch of a pass is shorter, and so is the last window; none is dropped unless a rank
    would go without an image.
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
        """Images, over all ranks, in the accumulation window that a micro-batch of a pass belongs to."""
        first = micro_batch // self.accumulate * self.accumulate * self.joint
        return min(self.usable, first + self.accumulate * self.joint) - first

    def __iter__(self) -> Iterator[Rows]:
        one_pass, start = divmod(self.done(), len(self))
        order = self.rows[seeds.permutation(len(self.rows), self.seed, "order", one_pass).numpy()]
        u = seeds.low_discrepancy(len(self.rows), self.seed, "timesteps", one_pass).numpy()
        for micro_batch in range(start, len(self)):
            at = slice(micro_batch * self.joint, min((micro_batch + 1) * self.joint, self.usable))
            rows, places = order[at][self.rank :: self.world], u[at][self.rank :: self.world]
            keys = np.array([seeds.key(self.seed, "noise", one_pass, int(row)) for row in rows])
            yield Rows(rows, keys, places, self.window(micro_batch))


class BatchDataset(Dataset):
    """Answers a Request with a Batch; `flip` mirrors half of the images, each by a bit of its own key.

    device: where the whole decoded set is held and batches are picked and mirrored; on a CPU it is the memory-mapped
    store itself, which lies in the page cache after the first pass.
    """

    def __init__(self, image_set: ImageSet, flip: bool, device: torch.device | str = "cpu"):
        self.image_set, self.flip = image_set, flip
        arrays = {name: getattr(image_set, name) for name in ("images", "masks", "conditionings")}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing writes to them
            self.held = {name: torch.from_numpy(a).to(device) for name, a in arrays.items() if a is not None}

    def __reduce__(self):
        """A worker process holds the memory-mapped store: the images themselves do not travel."""
        return BatchDataset, (self.image_set, self.flip)

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, request: Rows) -> Batch:
        """The rows of `request`. Where an image is mirrored, so are its mask and its conditioning image."""
        p, rows = self.image_set, np.asarray(request.rows)
        mirrored = np.flatnonzero((request.keys >> 7) % 2) if self.flip else np.empty(0, np.int64)
        laid = {name: picked(held, rows, mirrored) for name, held in self.held.items()}
        return Batch(
            laid["images"],
            torch.from_numpy(rows),
            torch.from_numpy(request.keys),
            torch.from_numpy(request.u),
            request.window,
            None if p.labels is None else torch.from_numpy(p.labels[rows]),
            None if p.captions is None else tuple(map(p.caption, rows, request.keys)),
            laid.get("masks"),
            laid.get("conditionings"),
            None if p.vectors is None else torch.from_numpy(p.vectors[rows]),
        )


def picked(held: torch.Tensor, rows: np.ndarray, mirrored: np.ndarray) -> torch.Tensor:
    """held[rows], uint8 [B, C, H, W], where it is held; of these the places `mirrored` from right to left."""
    here = held.index_select(0, torch.from_numpy(rows).to(held.device))
    if len(mirrored):
        places = torch.from_numpy(mirrored).to(held.device)
        here.index_copy_(0, places, here.index_select(0, places).flip(-1))
    return here


def loader(image_set: BatchDataset, order: Order, num_workers: int = 0) -> DataLoader:
    """Batches in `order`. Without workers the main process picks them from what is held, which is rarely slower."""
    return DataLoader(
        image_set,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context=FreshContext() if num_workers else None,
    )
