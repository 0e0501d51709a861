"""The LightningDataModule: source -> decoded set -> batches."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from chrysalis.data.batch import Batch
from chrysalis.data.columns import COLUMNS, composed
from chrysalis.data.encoded import encoded
from chrysalis.data.loaders import BatchDataset, Order, Rows, loader
from chrysalis.data.pixels import PixelCodec
from chrysalis.data.source import Source, content_hash
from chrysalis.data.store import ImageSet, open_folder, open_set
from chrysalis.data.transforms import Resize, height_and_width
from chrysalis.system import memory
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import InsideFraction, Pixels, Positive, Seed, Workers
from chrysalis.system.terminal import warn

FEW_PER_LABEL = 5  # training images: labels with fewer are reported


class ImageDataModule(LightningDataModule):
    """Training batches in a reproducible order, and the validation images that callbacks evaluate on.

    Args:
        image_size: pixels, or (height, width); None: `size` is set later, to the model's own.
        batch_size: images per device and micro-batch; "auto": as many of effective_batch as fit in memory, see
            training/batch_size.py.
        effective_batch: with batch_size="auto", images per optimizer step.
        resize: crop, stretch or pad.
        flip: mirror half of the training images.
        val_fraction: fraction of validation images, chosen by a hash of each image.
        seed: determines the order, the timesteps and the noise.
        on_device: with num_workers=0, keep the set on the accelerator; None: if it takes at most 1/8 of free memory.
    """

    trainer: Trainer  # pyrefly: ignore[bad-override-mutable-attribute]  # set before Lightning calls hooks

    def __init__(
        self,
        source: Source,
        image_size: Pixels | tuple[Pixels, Pixels] | None = None,
        batch_size: Positive | Literal["auto"] = 4,
        effective_batch: Positive = 8,
        num_workers: Workers = 0,
        resize: Resize = "crop",
        flip: bool = True,
        val_fraction: InsideFraction = 0.1,
        seed: Seed = 0,
        on_device: bool | None = None,
    ):
        super().__init__()
        self.source, self.resize = source, resize
        self.size: Any = None if image_size is None else height_and_width(image_size)
        self.batch_size, self.effective_batch = batch_size, effective_batch
        self.num_workers, self.flip = num_workers, flip
        self.val_fraction, self.seed, self.on_device = val_fraction, seed, on_device
        self.codec = PixelCodec()  # that of the model, which determines the channels of the images
        self.image_set: ImageSet  # set by open_images, like the two below
        self.train_rows: np.ndarray  # int64
        self.validation_rows: np.ndarray
        self._dataset: BatchDataset | None = None

    def prepare_data(self) -> None:
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "image_set"):
            return
        self.open_images()
        key = "effective_batch" if self.batch_size == "auto" else "batch_size"
        if (size := getattr(self, key)) > (n := len(self.train_rows)):
            raise UserError(
                f"data.{key}={size} is larger than the training set ({n} images): use data.{key}={n} or less."
            )

    def open_images(self) -> None:
        """Decode the images and split them, which is all that evaluation needs."""
        self.image_set = open_set(self.source, (self.codec.channels, *self.size), self.resize)
        if len(self.image_set) < 2:
            raise UserError(f"{self.source.name} has one usable image: add more, since a run needs at least two.")
        self.train_rows, validation = self.image_set.split(self.val_fraction)
        self.validation_rows = self.image_set.distinct(validation)  # identical images count once

    def use_labels(self, names: Sequence[str], column: str = "label") -> None:
        """Number the labels of a column by their position in `names`, the labels of a model."""
        own = self.image_set.value_names[column]
        if tuple(names) == own:
            return
        if new := sorted(set(own) - {*names, *map(composed, names)}):
            known = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise UserError(
                f"{self.source.name} has labels that the model does not know ({', '.join(new[:5])}): rename them, or "
                f"add them to the model with condition=label condition.label.add=true. The model knows {known}."
            )
        value_names = {**self.image_set.value_names, column: tuple(names)}
        self.image_set, self._dataset = open_folder(self.image_set.folder, value_names), None

    def description(self) -> str:
        images, (height, width) = self.image_set, self.size
        columns = [
            c.describe(images.value_names.get(name, ())) for name, c in COLUMNS.items() if name in images.columns
        ]
        rows = f"{len(self.train_rows)} training and {len(self.validation_rows)} validation images"
        first = ", ".join([f"data: {self.source.name}, {rows} of {width} x {height} px", *columns])
        notes = (images.enlarged_note(), images.near_duplicates_note(), self.source.note)
        return ". ".join([first, *(note.removesuffix(".") for note in notes if note)])

    def notes(self, conditions: Collection[str]) -> list[str]:
        """Return sentences on labels with few images, and on an optimizer step larger than the set."""
        return [note for note in (self._step_note(), "label" in conditions and self._labels_note()) if note]

    def _step_note(self) -> str:
        accumulate, devices, n = self.trainer.accumulate_grad_batches, self.trainer.world_size, len(self.train_rows)
        size = int(self.batch_size) * accumulate * devices
        if size <= n:
            return ""
        times_devices = f" x trainer.devices={devices}" * (devices > 1)
        return (
            f"data.batch_size={self.batch_size} x trainer.accumulate_grad_batches={accumulate}{times_devices} is "
            f"{size} images per optimizer step, more than the {n} training images: each step is one epoch."
        )

    def _labels_note(self) -> str:
        names, labels = self.image_set.value_names["label"], np.asarray(self.image_set.columns["label"])
        training, validation = (
            np.bincount(labels[rows][labels[rows] >= 0], minlength=len(names))
            for rows in (self.train_rows, self.validation_rows)
        )
        present = training + validation > 0  # the model may have labels that the data lacks
        lacking = {
            f"fewer than {FEW_PER_LABEL} training images": np.flatnonzero(present & (training < FEW_PER_LABEL)),
            "no validation image": np.flatnonzero(present & (validation == 0)),
        }
        parts = [
            f"{len(found)} of {present.sum()} labels have {problem} ({', '.join(names[i] for i in found[:5])}"
            f"{', ...' * (len(found) > 5)})"
            for problem, found in lacking.items()
            if len(found)
        ]
        return f"condition=label: {'; '.join(parts)}. Add images or merge labels." if parts else ""

    def state_dict(self) -> dict:
        """Return what identifies the set, so that a resumed run can report changes."""
        contents = np.sort(self.image_set.contents).astype(">i8").tobytes()
        return {"images": len(self.image_set), "contents": content_hash(contents)}

    def load_state_dict(self, state_dict: dict) -> None:
        if (now := self.state_dict()) != state_dict:
            warn(
                f"{self.source.name} has changed since this run began: {state_dict['images']} images then, "
                f"{now['images']} now. Training continues with the current images."
            )

    def train_dataloader(self) -> DataLoader:
        if self._dataset is None:
            device = self.trainer.strategy.root_device
            moments = encoded(self.image_set, self.train_rows, self.codec, self.flip, device)
            self._dataset = BatchDataset(self.image_set, self.flip, self._storage_device(), moments)
        return loader(self._dataset, self._order(), self.num_workers)

    def _storage_device(self) -> torch.device:
        device = self.trainer.strategy.root_device
        if device.type == "cpu":
            return device
        size = sum(array.nbytes for array in self.image_set.arrays().values())
        fits = size <= memory.free(device) / 8 if self.on_device is None else self.on_device
        return device if fits and self.num_workers == 0 else torch.device("cpu")

    def micro_batches(self) -> int:
        """Return the number of micro-batches in an epoch."""
        return len(self._order())

    def _order(self) -> Order:
        trainer = self.trainer
        return Order(
            self.train_rows,
            int(self.batch_size),  # training/batch_size.py has replaced "auto"
            self.seed,
            trainer.accumulate_grad_batches,
            trainer.global_rank,
            trainer.world_size,
            done=lambda: trainer.fit_loop.epoch_loop.batch_progress.total.ready,
        )

    def validation_batch(self, n: int) -> Batch:
        """Return the first n validation images or all, never mirrored; the key of each is its content hash."""
        rows = self.validation_rows[:n]
        request = Rows(rows, self.image_set.contents[rows], np.zeros(len(rows), np.float32), window=len(rows))
        return BatchDataset(self.image_set, flip=False)[request]
