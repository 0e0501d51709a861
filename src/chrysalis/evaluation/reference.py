"""What drawn pictures are held against: features of a data set's pictures, of those learned from and those held out."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from chrysalis.data.datamodule import Pictures
from chrysalis.evaluation import distances
from chrysalis.evaluation.distances import KERNEL_LEAST, Distances
from chrysalis.evaluation.features import Network, digest, features, of_set
from chrysalis.evaluation.memorization import HELD_OUT_LEAST, Copies, Measure


@dataclass(frozen=True)
class Evaluation:
    """Of drawn pictures, all of them. features: the name of the network, network: a digest of its weights and
    settings. against: which real pictures."""

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
        counts = {"n_drawn": d["n_drawn"], "n_real": d["n_real"], "n_held_out": self.copies.n_held_out}
        seen = {"features": self.features, "network": self.network, "against": self.against}
        return {**seen, **counts, **self.figures(), "withheld": self.why}

    @property
    def why(self) -> list[str]:
        said = list(self.distances.why)
        if twins := self.copies.twins:
            said.append(
                f"{twins} held-out pictures are all but the same as training pictures: held-out loss is too low for "
                "that, and as large a share of new pictures is taken to be so without being copied."
            )
        if self.copies.threshold is None:
            said.append(
                f"the share of copies is withheld: it takes {HELD_OUT_LEAST} held-out pictures to know how near new "
                f"ones come (there are {self.copies.n_held_out}; more with data.val_fraction)."
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
        return f"{d.n_drawn} drawn pictures against {d.n_real} {self.against}: {', '.join(said)}"


def held_against(data: Pictures) -> tuple[np.ndarray, str]:
    """(rows, what they are called) of the pictures that distances are to: the held-out ones if there are enough of
    them, else all. To those learned from, a model that copies would be the best."""
    if len(data.held_out_rows) >= KERNEL_LEAST:
        return data.held_out_rows, "held-out ones"
    return np.concatenate([data.held_out_rows, distinct(data)]), "real ones"


def distinct(data: Pictures) -> np.ndarray:
    """The rows learned from, each picture once: one that is there twice is no copy of itself."""
    return data.pictures.distinct(data.train_rows)


class Reference:
    """Looks at a data set once with a network; the features are kept in the cache."""

    def __init__(self, network: Network, data: Pictures, on: torch.device | str = "cpu"):
        self.network, self.pictures, self.on, self.flip = network, data.pictures, on, data.flip
        self.digest = digest(network)[:12]
        self.train_rows = distinct(data)

        def look(rows: np.ndarray, mirrored: bool = False) -> torch.Tensor:
            return of_set(network, data.pictures, rows, mirrored, on)

        mirrored = look(data.held_out_rows, mirrored=True) if self.flip else None
        self.measure = Measure(look(self.train_rows), look(data.held_out_rows), mirrored)
        rows, self.against = held_against(data)
        self.real = look(rows)

    def hold(self, images: torch.Tensor, seed: int = 0) -> Evaluation:
        """Drawn pictures, uint8 [N, 3, H, W], against the set."""
        drawn = features(self.network, images, self.on)
        mirrored = features(self.network, images.flip(-1), self.on) if self.flip else None
        near = self.measure.hold(drawn, mirrored)
        apart = distances.distances(self.real, drawn, seed)
        return Evaluation(self.network.name, self.digest, self.against, apart, near)

    def nearest(self, evaluation: Evaluation, k: int) -> tuple[list[int], torch.Tensor]:
        """The k most suspicious drawn pictures, and uint8 [k, 3, H, W], the training picture nearest to each."""
        worst = evaluation.copies.ratio.argsort()[:k].tolist()
        rows = self.train_rows[evaluation.copies.nearest[worst].numpy()]
        return worst, torch.from_numpy(np.asarray(self.pictures.images[rows]))
