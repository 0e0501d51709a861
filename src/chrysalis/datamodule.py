"""Source -> decoded set -> loaders: the LightningDataModule, and one maker for each kind of source."""

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from chrysalis.data.loaders import Order, loader
from chrysalis.data.sources import Drawn, Folder, Hub, Source
from chrysalis.data.store import PictureSet, open_set
from chrysalis.data.transforms import checked_resize, checked_size
from chrysalis.errors import UserError, require_whole


class Pictures(LightningDataModule):
    """Training batches in a reproducible order, and the held-out rows that callbacks measure on.

    batch_size: pictures a device and micro-batch. val_fraction: the share held out, by a hash of the picture.
    """

    def __init__(
        self,
        source: Source,
        image_size: int | tuple[int, int] = 64,
        batch_size: int = 4,
        num_workers: int = 0,
        resize: str = "crop",
        flip: bool = True,
        val_fraction: float = 0.1,
        seed: int = 0,
    ):
        super().__init__()
        require_whole("data.batch_size", batch_size)
        require_whole("data.num_workers", num_workers, least=0)
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction={val_fraction} must lie between 0 and 1.")
        self.source, self.size, self.resize = source, checked_size(image_size), checked_resize(resize)
        self.batch_size, self.num_workers, self.flip = batch_size, num_workers, flip
        self.val_fraction, self.seed = val_fraction, seed
        self.pictures: PictureSet | None = None

    def prepare_data(self) -> None:
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.pictures is not None:
            return
        self.pictures = open_set(self.source, self.size, self.resize)
        if len(self.pictures) < 2:
            raise UserError(
                f"{self.source.name} has one usable picture: at least two are needed, one of them held out."
            )
        self.train_rows, self.held_out_rows = self.pictures.split(self.val_fraction)
        if self.batch_size > len(self.train_rows):
            raise UserError(
                f"data.batch_size={self.batch_size} is larger than the set: {len(self.train_rows)} pictures to learn "
                f"from ({len(self.held_out_rows)} are held out). Use data.batch_size={len(self.train_rows)} or less."
            )

    def description(self) -> str:
        labels = f", {len(self.pictures.label_names)} labels" if self.pictures.label_names else ""
        height, width = self.size
        return (
            f"data: {self.source.name}, {len(self.train_rows)} pictures of {width} x {height} px to learn from, "
            f"{len(self.held_out_rows)} held out{labels}"
        )

    def train_dataloader(self) -> DataLoader:
        return loader(self.pictures, self._order(), self.flip, self.num_workers)

    def micro_batches(self) -> int:
        """How many of them one pass over the training rows has."""
        return len(self._order())

    def _order(self) -> Order:
        trainer = self.trainer
        return Order(
            self.train_rows,
            self.batch_size,
            self.seed,
            trainer.accumulate_grad_batches,
            trainer.global_rank,
            trainer.world_size,
            done=lambda: trainer.fit_loop.epoch_loop.batch_progress.total.ready,
        )

    def held_out(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to n held-out pictures uint8 [m, 3, H, W] and their content hashes int64 [m], always the same ones."""
        rows = self.held_out_rows[:n]
        return self.pictures.images[rows], self.pictures.contents[rows]


def drawn(domain: str = "butterflies", n: int = 1000, **loading) -> Pictures:
    return Pictures(Drawn(domain, n), **loading)


def folder(path: str, **loading) -> Pictures:
    return Pictures(Folder(path), **loading)


def hub(
    path: str,
    split: str = "train",
    image_column: str = "image",
    label_column: str | None = None,
    caption_column: str | None = None,
    **loading,
) -> Pictures:
    return Pictures(Hub(path, split, image_column, label_column, caption_column), **loading)
