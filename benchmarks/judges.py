"""Small networks that judge whether an image follows its condition: they name a butterfly and segment it.

    python benchmarks/judges.py

They are trained only on butterflies drawn with another seed than the training images of the models, and are independent
of the models that they judge. The program trains them and prints their accuracy on other drawn butterflies.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.source import content_hash
from chrysalis.data.store import ImageSet, open_set
from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.diffusion import seeds
from chrysalis.system import hardware
from chrysalis.system.files import written

SPECIES = tuple(sorted(species.name for species in BUTTERFLIES))
WORDS = tuple(sorted({form.word for species in BUTTERFLIES for form in species.forms}))
TRAINING, VALIDATION, N = 1000, 1001, 3000  # seeds (models train on seed 0), number of training images
SIZE, BATCH, SHIFT = 64, 64, 4


def butterflies(n: int, seed: int) -> ImageSet:
    return open_set(DrawnSource("butterflies", n, seed), (3, SIZE, SIZE), "crop")


def truth(drawn: ImageSet) -> tuple[list[str], list[str]]:
    """(species, colour words) of all images; a colour word stands between a caption's article and the species."""
    species = [drawn.value_names["label"][label] for label in drawn.columns["label"]]
    words = [c.partition(f" {s}")[0].partition(" ")[2] for s, c in zip(species, drawn.columns["caption"], strict=True)]
    return species, words


def agreement(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The fraction of correct answers, 0 to 1."""
    return sum(a == b for a, b in zip(answers, expected, strict=True)) / len(expected)


def iou(predicted: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Intersection over union, float [B], of masks [B, 1, H, W]; 0 where both are empty."""
    p, q = predicted.bool().flatten(1), expected.bool().flatten(1)
    return (p & q).sum(1) / (p | q).sum(1).clamp(min=1)


def degraded(x: torch.Tensor, masks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror and shift x float [B, 3, 64, 64] in [-1, 1] and masks float [B, 1, 64, 64] together, then give x the flaws
    of generated images: blur, wrong brightness and contrast, noise."""
    place = torch.eye(2, 3).repeat(len(x), 1, 1)
    place[:, 0, 0] = 1 - 2.0 * torch.randint(2, (len(x),), generator=generator)
    place[:, :, 2] = torch.randint(-SHIFT, SHIFT + 1, (len(x), 2), generator=generator) * 2 / SIZE
    where = F.affine_grid(place, list(masks.shape), align_corners=False)
    x, masks = (F.grid_sample(a, where, "nearest", "reflection", align_corners=False) for a in (x, masks))

    blur, contrast, light, noise = torch.rand(4, len(x), 1, 1, 1, generator=generator)
    smooth = F.avg_pool2d(F.avg_pool2d(F.pad(x, (2, 2, 2, 2), "replicate"), 3, 1), 3, 1)
    x = x.lerp(smooth, (1.5 * blur - 0.5).clamp(min=0))  # a third of them stay sharp
    x = x * (0.85 + 0.3 * contrast) + 0.24 * light - 0.12
    return x + 0.12 * noise * torch.randn(x.shape, generator=generator), masks


def layer(inside: int, outside: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(True))


class Classifier(nn.Module):
    """float [B, 3, 64, 64] in [-1, 1] -> logits [B, len(SPECIES)] and [B, len(WORDS)]."""

    def __init__(self):
        super().__init__()
        self.early = nn.Sequential(nn.PixelUnshuffle(2), layer(12, 64, 2), layer(64, 64))
        self.late = nn.Sequential(layer(64, 128, 2), layer(128, 128), layer(128, 192, 2))
        self.heads = nn.Linear(192, len(SPECIES) + len(WORDS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.heads(self.late(self.early(x)).mean((2, 3))).split([len(SPECIES), len(WORDS)], 1)


class Segmenter(nn.Module):
    """float [B, 3, 64, 64] in [-1, 1] -> logits [B, 1, 64, 64], positive on the subject."""

    def __init__(self):
        super().__init__()
        # Layers at full resolution would take most of the time: 2 x 2 pixels become channels
        self.fine, self.middle = nn.Sequential(nn.PixelUnshuffle(2), layer(12, 32)), layer(32, 64, 2)
        self.coarse = nn.Sequential(layer(64, 96, 2), layer(96, 96), layer(96, 96))
        self.join_middle = nn.Sequential(layer(160, 64), nn.PixelShuffle(2))
        self.join_fine = nn.Sequential(layer(48, 32), nn.Conv2d(32, 4, 1), nn.PixelShuffle(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(x)
        middle = self.middle(fine)
        middle = self.join_middle(torch.cat([middle, F.interpolate(self.coarse(middle), scale_factor=2)], 1))
        return self.join_fine(torch.cat([fine, middle], 1))


class Judges:
    """Judges of images uint8 [B, 3, H, W], which are resized to 64 x 64 pixels; on the CPU."""

    def __init__(self):
        networks = nn.ModuleDict({"classifier": Classifier(), "segmenter": Segmenter()})
        self.networks = networks.to(memory_format=torch.channels_last).eval()

    def species(self, images: torch.Tensor) -> list[str]:
        return [SPECIES[i] for i in self._predict("classifier", images)[0].argmax(1)]

    def word(self, images: torch.Tensor) -> list[str]:
        """The colour words of the captions; species with the same word ("yellow") have the same class."""
        return [WORDS[i] for i in self._predict("classifier", images)[1].argmax(1)]

    def silhouette(self, images: torch.Tensor) -> torch.Tensor:
        """bool [B, 1, H, W]"""
        return F.interpolate(self._predict("segmenter", images), images.shape[-2:], mode="bilinear") > 0

    @torch.no_grad()
    def _predict(self, network: str, images: torch.Tensor):
        x = pixels.to_signed(images.cpu())
        return self.networks[network](F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True))

    def evaluate(self, drawn: ImageSet) -> dict[str, float]:
        """Evaluate the judges on `drawn`: species and word as accuracies, silhouette as mean IoU."""
        images, masks = (torch.from_numpy(np.array(a)) for a in (drawn.images, drawn.columns["mask"]))
        answers = self.species(images), self.word(images)
        species, word = (agreement(a, b) for a, b in zip(answers, truth(drawn), strict=True))
        return {"species": species, "word": word, "silhouette": iou(self.silhouette(images), masks).mean().item()}

    @classmethod
    def train(cls, seed: int = 0, n: int = N, epochs: int = 8) -> "Judges":
        """Train on n degraded images for `epochs` epochs: one cycle of AdamW."""
        drawn, threads = butterflies(n, TRAINING), torch.get_num_threads()
        torch.set_num_threads(1)  # on cores that others use, two threads that wait for each other take 6 times as long
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                judges = cls()
            judges._fit(drawn, seed, epochs)
        finally:
            torch.set_num_threads(threads)
        return judges

    def _fit(self, drawn: ImageSet, seed: int, epochs: int) -> None:
        images, masks = (torch.from_numpy(np.array(a)) for a in (drawn.images, drawn.columns["mask"]))
        labels = torch.tensor([[SPECIES.index(s), WORDS.index(w)] for s, w in zip(*truth(drawn), strict=True)])
        generator = torch.Generator().manual_seed(seeds.key(seed, "disturbed"))
        use_bf16 = hardware.cpu_has_bf16()  # elsewhere bf16 is emulated, and slower
        optimizer = torch.optim.AdamW(self.networks.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * -(-len(drawn) // BATCH))
        classifier, segmenter = self.networks.train().values()
        for i in range(epochs):
            for rows in seeds.permutation(len(drawn), seed, i).split(BATCH):
                x, y = degraded(pixels.to_signed(images[rows]), masks[rows].float() / 255, generator)
                with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
                    named, mask = classifier(x), segmenter(x)
                loss = F.binary_cross_entropy_with_logits(mask.float(), y)
                loss += sum(F.cross_entropy(a.float(), b) for a, b in zip(named, labels[rows].T, strict=True))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.networks.eval()

    @classmethod
    def trained(cls, cache_file: Path | None) -> "Judges":
        """Load the judges in `cache_file` if this code and these images made them; train and save them otherwise."""
        if cache_file is not None and cache_file.is_file():
            with safe_open(cache_file, "pt") as file:
                if file.metadata()["code"] == _recipe():
                    return cls.load(cache_file)
        judges = cls.train()
        if cache_file is not None:
            judges.save(cache_file)
        return judges

    def save(self, path: Path) -> None:
        with written(path) as partial:
            save_file({k: v.contiguous() for k, v in self.networks.state_dict().items()}, partial, {"code": _recipe()})

    @classmethod
    def load(cls, path: Path) -> "Judges":
        judges = cls()
        judges.networks.load_state_dict(load_file(path))
        return judges


def _recipe() -> str:
    return f"{content_hash(Path(__file__).read_bytes())} {DrawnSource('butterflies', N, TRAINING).fingerprint()}"


if __name__ == "__main__":
    began, judges = time.perf_counter(), Judges.train()
    print(f"trained in {time.perf_counter() - began:.0f} s")
    print(", ".join(f"{name} {value:.3f}" for name, value in judges.evaluate(butterflies(300, VALIDATION)).items()))
