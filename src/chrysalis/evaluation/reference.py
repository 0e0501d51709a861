"""What samples are held against: features of a data set's images, of those learned from and those held out."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.evaluation import distances
from chrysalis.evaluation.distances import KERNEL_LEAST, Distances
from chrysalis.evaluation.features import Network, digest, features, of_set
from chrysalis.evaluation.memorization import VALIDATION_LEAST, Copies, Measure


@dataclass(frozen=True)
class Evaluation:
    """Of samples, all of them. features: the name of the network, network: a digest of its weights and
    settings. against: which real images."""

    features: str
    network: str
    against: str
    distances: Distances
    copies: Copies

    def figures(self) -> dict[str, float]:
        """Those that are not withheld, by the names that they are logged under."""
        d, c = self.distances, self.copies
        found = {"fd": d.fd, "precision": d.precision, "recall": d.recall, "density": d.density, "coverage": d.coverage}
        if d.kd is not None:
            found |= {"kd": d.kd.value, "kd_low": d.kd.low, "kd_high": d.kd.high}
        found["copies_ratio"] = float(c.ratio.median())
        if c.threshold is not None:
            found |= {"copies_share": c.share, "copies_share_low": c.interval[0], "copies_share_high": c.interval[1]}
            found |= {"copies_chance": c.chance, "copies_expected": c.expected}
        return {name: value for name, value in found.items() if value is not None}

    def record(self) -> dict:
        """For results.json."""
        d = asdict(self.distances)
        counts = {"n_samples": d["n_samples"], "n_real": d["n_real"], "n_validation": self.copies.n_validation}
        seen = {"features": self.features, "network": self.network, "against": self.against}
        return {**seen, **counts, **self.figures(), "withheld": self.why}

    @property
    def why(self) -> list[str]:
        said = list(self.distances.why)
        if twins := self.copies.twins:
            said.append(
                f"{twins} validation images are all but the same as training images: validation loss is too low for "
                "that, and as large a share of new images is taken to be so without being copied."
            )
        if self.copies.threshold is None:
            said.append(
                f"the share of copies is withheld: it takes {VALIDATION_LEAST} validation images to know how near new "
                f"ones come (there are {self.copies.n_validation}; more with data.val_fraction)."
            )
        return said

    def sentence(self) -> str:
        """KD and copies in one line."""
        d, c, said = self.distances, self.copies, []
        if d.kd is not None:
            said.append(f"KD {d.kd.value:.4f} [{d.kd.low:.4f}, {d.kd.high:.4f}]")
        if c.threshold is not None:
            said.append(f"{c.share:.0%} near copies" + ("" if c.copies else f" ({c.expected:.0%} are by chance)"))
        else:
            said.append(f"median distance ratio {c.ratio.median():.2f}")
        return f"{d.n_samples} samples against {d.n_real} {self.against}: {', '.join(said)}"


def compared_with(data: ImageDataModule) -> tuple[np.ndarray, str]:
    """(rows, what they are called) of the images that distances are to: the validation images if there are enough of
    them, else all. To those learned from, a model that copies would be the best."""
    if len(data.validation_rows) >= KERNEL_LEAST:
        return data.validation_rows, "validation images"
    return np.concatenate([data.validation_rows, distinct(data)]), "real ones"


def distinct(data: ImageDataModule) -> np.ndarray:
    """The rows learned from, each image once: one that is there twice is no copy of itself."""
    return data.image_set.distinct(data.train_rows)


class Reference:
    """Looks at a data set once with a network; the features are kept in the cache."""

    def __init__(self, network: Network, data: ImageDataModule, on: torch.device | str = "cpu"):
        self.network, self.image_set, self.on, self.flip = network, data.image_set, on, data.flip
        self.digest = digest(network)[:12]
        self.train_rows = distinct(data)

        def look(rows: np.ndarray, mirrored: bool = False) -> torch.Tensor:
            return of_set(network, data.image_set, rows, mirrored, on)

        mirrored = look(data.validation_rows, mirrored=True) if self.flip else None
        self.measure = Measure(look(self.train_rows), look(data.validation_rows), mirrored)
        rows, self.against = compared_with(data)
        self.real = look(rows)

    def hold(self, images: torch.Tensor, seed: int = 0) -> Evaluation:
        """Drawn images, uint8 [N, 3, H, W], against the set."""
        drawn = features(self.network, images, self.on)
        mirrored = features(self.network, images.flip(-1), self.on) if self.flip else None
        near = self.measure.hold(drawn, mirrored)
        apart = distances.distances(self.real, drawn, seed)
        return Evaluation(self.network.name, self.digest, self.against, apart, near)

    def nearest(self, evaluation: Evaluation, k: int) -> tuple[list[int], torch.Tensor]:
        """The k most suspicious samples, and uint8 [k, 3, H, W], the training image nearest to each."""
        worst = evaluation.copies.ratio.argsort()[:k].tolist()
        rows = self.train_rows[evaluation.copies.nearest[worst].numpy()]
        return worst, torch.from_numpy(np.asarray(self.image_set.images[rows]))
