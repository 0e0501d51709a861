"""Source -> decoded set -> loaders: the LightningDataModule, and one maker for each kind of source."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from chrysalis.data import loaders
from chrysalis.data.batch import Batch
from chrysalis.data.example import composed, content_hash
from chrysalis.data.loaders import Order, Rows, loader
from chrysalis.data.sources import Drawn, Folder, Hub, Source
from chrysalis.data.store import ImageSet, open_folder, open_set
from chrysalis.data.transforms import checked_resize, checked_size
from chrysalis.system import memory
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.terminal import warn

FEW = 5  # training images of a label


class ImageDataModule(LightningDataModule):
    """Training batches in a reproducible order, and the validation rows that callbacks measure on.

    batch_size: images a device and micro-batch; `auto`: as many as memory allows of effective_batch, those of an
    optimizer step, see training/batch_size.py. val_fraction: the share held out, by a hash of the image.
    on_device: hold the decoded set on the accelerator; None: where it takes no more than an eighth of its free memory.
    """

    def __init__(
        self,
        source: Source,
        image_size: int | tuple[int, int] = 64,
        batch_size: int | str = 4,
        effective_batch: int = 8,
        num_workers: int = 0,
        resize: str = "crop",
        flip: bool = True,
        val_fraction: float = 0.1,
        seed: int = 0,
        on_device: bool | None = None,
    ):
        super().__init__()
        if batch_size != "auto":
            require_whole("data.batch_size", batch_size)
        require_whole("data.effective_batch", effective_batch)
        require_whole("data.num_workers", num_workers, least=0)
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction={val_fraction} must lie between 0 and 1.")
        self.source, self.size, self.resize = source, checked_size(image_size), checked_resize(resize)
        self.batch_size, self.effective_batch = batch_size, effective_batch
        self.num_workers, self.flip = num_workers, flip
        self.val_fraction, self.seed, self.on_device = val_fraction, seed, on_device
        self.image_set: ImageSet | None = None
        self._held: loaders.BatchDataset | None = None

    def prepare_data(self) -> None:
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.image_set is not None:
            return
        self.look()
        key = "effective_batch" if self.batch_size == "auto" else "batch_size"
        if getattr(self, key) > len(self.train_rows):
            raise UserError(
                f"data.{key}={getattr(self, key)} is larger than the set: {len(self.train_rows)} images to learn "
                f"from ({len(self.validation_rows)} are held out). Use data.{key}={len(self.train_rows)} or less."
            )

    def look(self) -> None:
        """Decode the images and part them, which is all that measuring needs."""
        self.image_set = open_set(self.source, self.size, self.resize)
        if len(self.image_set) < 2:
            raise UserError(f"{self.source.name} has one usable image: at least two are needed, one of them held out.")
        self.train_rows, validation = self.image_set.split(self.val_fraction)
        self.validation_rows = self.image_set.distinct(validation)  # an image that is there twice is one observation

    def use_labels(self, names: Sequence[str]) -> None:
        """Number the labels as a model does that knows `names`."""
        if tuple(names) == self.image_set.label_names:
            return
        if new := sorted(set(self.image_set.label_names) - {*names, *map(composed, names)}):
            shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise UserError(
                f"{self.source.name} has labels that the model does not know: {', '.join(new[:5])}. It knows {shown}. "
                "Start from its base model, or name the labels as it does."
            )
        self.image_set, self._held = open_folder(self.image_set.folder, tuple(names)), None

    def description(self) -> str:
        p, (height, width) = self.image_set, self.size
        known = {
            f"{len(p.label_names)} labels": p.label_names,
            "captions": p.captions,
            "masks": p.masks is not None,
            "conditioning images": p.conditionings is not None,
            f"vectors of {len(p.vector_names)}": p.vector_names,
        }
        also = "".join(f", {what}" for what, there in known.items() if there)
        sentences = (p.enlarged_note(), p.near_duplicates_note(), self.source.note)
        notes = "".join(f". {sentence.removesuffix('.')}" for sentence in sentences if sentence)
        return (
            f"data: {self.source.name}, {len(self.train_rows)} images of {width} x {height} px to learn from, "
            f"{len(self.validation_rows)} held out{also}{notes}"
        )

    def notes(self, conditions: Collection[str]) -> list[str]:
        """Sentences on labels that are learned from few images, and on a step that is larger than the set."""
        return [note for note in (self._step_note(), "label" in conditions and self._labels_note()) if note]

    def _step_note(self) -> str:
        pieces, n = self.trainer.accumulate_grad_batches, len(self.train_rows)
        size = self.batch_size * pieces * self.trainer.world_size
        if size <= n:
            return ""
        devices = f" x trainer.devices={self.trainer.world_size}" * (self.trainer.world_size > 1)
        return (
            f"data.batch_size={self.batch_size} x trainer.accumulate_grad_batches={pieces}{devices} is {size} images "
            f"an optimizer step, more than the {n} training images: each step takes these once, and is one epoch."
        )

    def _labels_note(self) -> str:
        names, labels = self.image_set.label_names, self.image_set.labels
        training, validation = (
            np.bincount(labels[rows][labels[rows] >= 0], minlength=len(names))
            for rows in (self.train_rows, self.validation_rows)
        )
        there = training + validation > 0  # the model may know others
        lacking = {
            f"fewer than {FEW} training images": np.flatnonzero(there & (training < FEW)),
            "no validation image": np.flatnonzero(there & (validation == 0)),
        }
        parts = [
            f"{what}: {len(rows)} of {there.sum()} labels ({', '.join(names[i] for i in rows[:5])}"
            f"{', ...' * (len(rows) > 5)})"
            for what, rows in lacking.items()
            if len(rows)
        ]
        return f"condition=label: {'; '.join(parts)}. Add images of them or merge labels." if parts else ""

    def state_dict(self) -> dict:
        """What a checkpoint keeps to notice, when it is resumed, that the set has changed."""
        contents = np.sort(self.image_set.contents).astype(">i8").tobytes()
        return {"images": len(self.image_set), "contents": content_hash(contents)}

    def load_state_dict(self, state_dict: dict) -> None:
        if (now := self.state_dict()) != state_dict:
            warn(
                f"{self.source.name} has changed since this run began: {state_dict['images']} images then, "
                f"{now['images']} now. Training continues with those of now."
            )

    def train_dataloader(self) -> DataLoader:
        if self._held is None:
            self._held = loaders.BatchDataset(self.image_set, self.flip, self._holding_device())
        return loader(self._held, self._order(), self.num_workers)

    def _holding_device(self) -> torch.device:
        on, p = self.trainer.strategy.root_device, self.image_set
        if on.type == "cpu":
            return on
        size = sum(a.nbytes for a in (p.images, p.masks, p.conditionings) if a is not None)
        fits = size <= memory.free(on) / 8 if self.on_device is None else self.on_device
        return on if fits and self.num_workers == 0 else torch.device("cpu")

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

    def validation_batch(self, n: int) -> Batch:
        """Up to n validation images, always the same ones and never mirrored; a key is the image's content hash."""
        rows = self.validation_rows[:n]
        request = Rows(rows, self.image_set.contents[rows], np.zeros(len(rows), np.float32), window=len(rows))
        return loaders.BatchDataset(self.image_set, flip=False)[request]


def drawn(domain: str = "butterflies", n: int = 1000, **loading) -> ImageDataModule:
    return ImageDataModule(Drawn(domain, n), **loading)


def folder(
    path: str,
    masks: str | None = None,
    conditioning_images: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    vector_columns: Sequence[str] = (),
    **loading,
) -> ImageDataModule:
    source = Folder(path, masks, conditioning_images, label_column, caption_column, vector_columns)
    return ImageDataModule(source, **loading)


def hub(
    path: str,
    split: str = "train",
    image_column: str = "image",
    label_column: str | None = None,
    caption_column: str | None = None,
    mask_column: str | None = None,
    conditioning_image_column: str | None = None,
    vector_columns: Sequence[str] = (),
    name: str | None = None,
    revision: str | None = None,
    **loading,
) -> ImageDataModule:
    columns = (image_column, label_column, caption_column, mask_column, conditioning_image_column, vector_columns)
    return ImageDataModule(Hub(path, split, *columns, name, revision), **loading)
