"""Evaluation of samples against a data set: distances to real images, near-duplicates of training images."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.evaluation import distances, recognition
from chrysalis.evaluation.appearance import appearance
from chrysalis.evaluation.distances import KD_FORMAT, MIN_IMAGES_FOR_KD
from chrysalis.evaluation.features import BATCH_SIZE, Network, extract, extract_rows, network_digest
from chrysalis.evaluation.memorization import NearDuplicateDetector, NearDuplicates
from chrysalis.sampling import grids

MAX_APPEARANCE_IMAGES = 2000  # real images whose pixels are read, at most
MIN_SIDE = 64  # pixels of an image's shorter side in the grid of near-duplicates, so that people can compare


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a set of samples.

    record: what results.json, history.json and evaluation.json contain: the names of the feature network and of the
    real images, a hash of the network, numbers of images, the metrics, and notes, sentences on metrics that are missing
    or biased. metrics: those that there are enough images for, by the names they are logged under.
    """

    record: dict
    metrics: dict[str, float]
    near_duplicates: NearDuplicates

    def summary(self) -> str:
        """KD and near-duplicates in one line."""
        m, parts = self.metrics, []
        if "kd" in m:
            parts.append(f"KD {KD_FORMAT.format(**m)}")
        if "recognized" in m:
            parts.append(f"{m['recognized'] * 100:.0f} % recognized")
        if "near_duplicate_fraction" in m:
            chance = f"{m['near_duplicate_fraction_by_chance'] * 100:.0f} % expected by chance"
            parts.append(f"{m['near_duplicate_fraction'] * 100:.0f} % near-duplicates of training images ({chance})")
        else:
            parts.append(f"median distance ratio to the nearest training image {m['median_distance_ratio']:.2f}")
        return "{n_samples} samples vs {n_real} {compared_with}: ".format(**self.record) + "; ".join(parts)


def reference_rows(data: ImageDataModule) -> tuple[np.ndarray, str]:
    """(rows, their name) of the images that samples are compared with: the validation images, or all images where
    those are too few. A comparison with the training images alone would favor a model that memorizes."""
    if len(data.validation_rows) >= MIN_IMAGES_FOR_KD:
        return data.validation_rows, "validation images"
    return np.concatenate([data.validation_rows, distinct_train_rows(data)]), "real images"


def distinct_train_rows(data: ImageDataModule) -> np.ndarray:
    """The training rows of distinct images, so that no image is its own nearest other training image."""
    return data.image_set.distinct(data.train_rows)


def digest_in_records(network: Network) -> str:
    """The beginning of a network's digest, by which a record says what it was measured with."""
    return network_digest(network)[:12]


class ReferenceFeatures:
    """A data set's features, which samples are compared with; they are computed once and kept in the cache."""

    def __init__(self, network: Network, data: ImageDataModule, device: torch.device | str = "cpu"):
        self.network, self.image_set, self.device, self.flip = network, data.image_set, device, data.flip
        self.digest = digest_in_records(network)
        self.train_rows = distinct_train_rows(data)
        features_of = partial(extract_rows, network, self.image_set, device=device)
        train, validation = features_of(self.train_rows), features_of(data.validation_rows)
        mirrored = features_of(data.validation_rows, mirrored=True) if self.flip else None
        self.detector = NearDuplicateDetector(train, validation, mirrored)
        rows, self.compared_with = reference_rows(data)
        self.real = torch.cat([validation, train])[: len(rows)]  # rows has validation images first, or alone
        self.appearance = appearance(self._some_images(np.concatenate([data.validation_rows, self.train_rows])))
        labels = self.image_set.columns.get("label")
        own = None if labels is None else torch.from_numpy(np.asarray(labels)[self.train_rows])
        usable = own is not None and recognition.is_possible(own, len(validation))
        self.recognizer = recognition.Recognizer(train, own, validation) if usable else None

    def _some_images(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Yield at most MAX_APPEARANCE_IMAGES images in all, evenly spaced, in batches."""
        some = rows[:: -(-len(rows) // MAX_APPEARANCE_IMAGES)]
        for part in np.split(some, range(BATCH_SIZE, len(some), BATCH_SIZE)):
            yield torch.from_numpy(np.asarray(self.image_set.images[part]))

    def evaluate(self, images: Tensor, seed: int = 0) -> Evaluation:
        """Evaluate generated images, uint8 [N, C, H, W]."""
        samples = extract(self.network, images, self.device)
        mirrored = extract(self.network, images.flip(-1), self.device) if self.flip else None
        near_duplicates = self.detector.detect(samples, mirrored)
        metrics, notes = distances.measure(self.real, samples, seed)
        metrics |= near_duplicates.metrics
        metrics |= appearance(images.cpu().split(BATCH_SIZE)).compare(self.appearance)
        metrics |= self.recognizer.measure(samples) if self.recognizer else {}
        record = {"features": self.network.name, "features_digest": self.digest, "compared_with": self.compared_with}
        record |= {"n_samples": len(samples), "n_real": len(self.real), "n_validation": self.detector.n_validation}
        record |= {**metrics, "notes": notes + self.detector.notes()}
        return Evaluation(record, metrics, near_duplicates)

    def nearest_grid(self, evaluation: Evaluation, images: Tensor, k: int) -> Tensor:
        """Arrange the k samples of uint8 [N, C, H, W] with the lowest ratios, the lowest first, above the training
        image nearest to each; returns uint8 [3, h, w]."""
        found = evaluation.near_duplicates
        lowest = found.ratio.argsort()[:k].tolist()
        nearest = torch.from_numpy(np.asarray(self.image_set.images[self.train_rows[found.nearest[lowest].numpy()]]))
        flagged = int(found.flagged[lowest].sum())
        title = f"the {len(lowest)} samples nearest to a training image"
        title += f" ({flagged} near-duplicate{'s' * (flagged > 1)})" if flagged else ""
        rows = [(title, images[lowest]), ("the training image nearest to each", nearest)]
        return pixels.from_image(grids.table(rows, pixels.enlargement(min(images.shape[-2:]), MIN_SIDE)))
