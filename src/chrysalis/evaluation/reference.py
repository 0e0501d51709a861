"""Evaluation of samples against a data set: distances to real images, near-duplicates of training images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.evaluation import distances
from chrysalis.evaluation.distances import MIN_IMAGES_FOR_KD, Distances
from chrysalis.evaluation.features import Network, extract, extract_rows, network_digest
from chrysalis.evaluation.memorization import MIN_VALIDATION_IMAGES, NearDuplicateDetector, NearDuplicates
from chrysalis.sampling import grids

MIN_SIDE = 64  # pixels of an image's shorter side in the grid of near-duplicates, so that people can compare


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a set of samples. features: name of the feature network; features_digest: hash of its weights
    and settings. compared_with: which real images the distances are to."""

    features: str
    features_digest: str
    compared_with: str
    distances: Distances
    near_duplicates: NearDuplicates

    def metrics(self) -> dict[str, float]:
        """The metrics that there are enough images for, by the names they are logged under."""
        d, n = self.distances, self.near_duplicates
        metrics = {"fd": d.fd, "precision": d.precision, "recall": d.recall}
        metrics |= {"density": d.density, "coverage": d.coverage}
        if d.kd is not None:
            metrics |= {"kd": d.kd.value, "kd_low": d.kd.low, "kd_high": d.kd.high}
        metrics["median_distance_ratio"] = float(n.ratio.median())
        if n.interval is not None:
            low, high = n.interval
            metrics |= {"near_duplicate_fraction": n.fraction, "near_duplicate_fraction_low": low}
            metrics |= {"near_duplicate_fraction_high": high, "near_duplicate_p_value": n.p_value}
            metrics["near_duplicate_fraction_by_chance"] = n.fraction_by_chance
        return {name: value for name, value in metrics.items() if value is not None}

    def record(self) -> dict:
        """What results.json, history.json and evaluation.json contain."""
        names = {name: getattr(self, name) for name in ("features", "features_digest", "compared_with")}
        counts = {"n_samples": self.distances.n_samples, "n_real": self.distances.n_real}
        counts["n_validation"] = self.near_duplicates.n_validation
        return {**names, **counts, **self.metrics(), "notes": self.notes}

    @property
    def notes(self) -> list[str]:
        """Sentences on metrics that are missing or biased."""
        notes, n = list(self.distances.notes), self.near_duplicates
        if n.n_duplicates:
            notes.append(
                f"{n.n_duplicates} validation images are near-duplicates of training images, so the validation loss is "
                "too low; as large a fraction of new images is expected to be flagged without memorization."
            )
        if n.threshold is None:
            notes.append(
                f"The fraction of near-duplicates needs at least {MIN_VALIDATION_IMAGES} validation images (there are "
                f"{n.n_validation}): raise data.val_fraction."
            )
        return notes

    def summary(self) -> str:
        """KD and near-duplicates in one line."""
        d, n, parts = self.distances, self.near_duplicates, []
        if d.kd is not None:
            parts.append(f"KD {d.kd}")
        if n.fraction is None:
            parts.append(f"median distance ratio to the nearest training image {n.ratio.median():.2f}")
        else:
            chance = f"{n.fraction_by_chance * 100:.0f} % expected by chance"
            parts.append(f"{n.fraction * 100:.0f} % near-duplicates of training images ({chance})")
        return f"{d.n_samples} samples vs {d.n_real} {self.compared_with}: {'; '.join(parts)}"


def reference_rows(data: ImageDataModule) -> tuple[np.ndarray, str]:
    """(rows, their name) of the images that samples are compared with: the validation images, or all images where
    those are too few. Compared with the training images alone, a model that memorizes would be the best."""
    if len(data.validation_rows) >= MIN_IMAGES_FOR_KD:
        return data.validation_rows, "validation images"
    return np.concatenate([data.validation_rows, distinct_train_rows(data)]), "real images"


def distinct_train_rows(data: ImageDataModule) -> np.ndarray:
    """The training rows without repetitions: an image that is there twice is no near-duplicate of itself."""
    return data.image_set.distinct(data.train_rows)


class Reference:
    """A data set's features, which samples are compared with; they are computed once and kept in the cache."""

    def __init__(self, network: Network, data: ImageDataModule, device: torch.device | str = "cpu"):
        self.network, self.image_set, self.device, self.flip = network, data.image_set, device, data.flip
        self.digest = network_digest(network)[:12]
        self.train_rows = distinct_train_rows(data)
        rows, self.compared_with = reference_rows(data)
        train, validation = self._extract(self.train_rows), self._extract(data.validation_rows)
        mirrored = self._extract(data.validation_rows, mirrored=True) if self.flip else None
        self.detector = NearDuplicateDetector(train, validation, mirrored)
        self.real = self._extract(rows)

    def _extract(self, rows: np.ndarray, mirrored: bool = False) -> Tensor:
        return extract_rows(self.network, self.image_set, rows, mirrored, self.device)

    def evaluate(self, images: Tensor, seed: int = 0) -> Evaluation:
        """Evaluate generated images, uint8 [N, 3, H, W]."""
        samples = extract(self.network, images, self.device)
        mirrored = extract(self.network, images.flip(-1), self.device) if self.flip else None
        near_duplicates = self.detector.detect(samples, mirrored)
        measured = distances.measure(self.real, samples, seed)
        return Evaluation(self.network.name, self.digest, self.compared_with, measured, near_duplicates)

    def nearest_grid(self, evaluation: Evaluation, images: Tensor, k: int) -> Tensor:
        """Draw the k samples of uint8 [N, 3, H, W] with the lowest ratios, the lowest first, above the training image
        nearest to each; returns uint8 [3, h, w]."""
        found = evaluation.near_duplicates
        lowest = found.ratio.argsort()[:k].tolist()
        nearest = torch.from_numpy(np.asarray(self.image_set.images[self.train_rows[found.nearest[lowest].numpy()]]))
        flagged = int(found.flagged[lowest].sum())
        title = f"the {len(lowest)} samples nearest to a training image"
        title += f" ({flagged} near-duplicates)" if flagged else ""
        rows = [(title, images[lowest]), ("the training image nearest to each", nearest)]
        return pixels.from_image(grids.table(rows, enlarge=max(1, -(-MIN_SIDE // min(images.shape[-2:])))))
