"""Images into vectors whose distances mean something: the bundled network, Inception, DINOv2 or CLIP."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.store import ImageSet
from chrysalis.models import folder
from chrysalis.system import memory, transformers_folder
from chrysalis.system.alignment import align
from chrysalis.system.errors import UserError, require_path, require_whole
from chrysalis.system.files import cache_folder, written
from chrysalis.system.terminal import stage

BATCH = 64


class Network(Protocol):
    """name: to be shown. dim: numbers an image. module: frozen, moved to where it is used."""

    name: str
    dim: int
    module: torch.nn.Module

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] of any size, on the module's device -> float [B, dim]."""


def features(network: Network, images: torch.Tensor, on: torch.device | str = "cpu") -> torch.Tensor:
    """float32 [N, dim], on the CPU, of uint8 images [N, 3, H, W]; an image's do not depend on the others'.

    Raises UserError if they are not finite.
    """
    network.module.to(on)
    if not len(images):
        return torch.empty(0, network.dim)
    with torch.no_grad():
        found = memory.in_batches(
            lambda places: network.embed(images[places].to(on)).float().cpu(), len(images), BATCH, torch.device(on)
        )
    if not found.isfinite().all():
        raise UserError(f"The features of {network.name} are not numbers: choose another network with features=.")
    return found


def of_set(
    network: Network, image_set: ImageSet, rows: Sequence[int], mirrored: bool = False, on: torch.device | str = "cpu"
) -> torch.Tensor:
    """float32 [len(rows), dim] of a decoded set's rows, or of their mirror images; each image is looked at once.

    Kept in the cache folder by the contents of the images, their size, and the network's weights.
    """
    what = [image_set.folder.name, *map(str, image_set.images.shape[1:]), digest(network), str(mirrored)]
    file = cache_folder() / "features" / f"{hashlib.sha256(' '.join(what).encode()).hexdigest()[:24]}.safetensors"
    known = _read(file, len(image_set), network.dim)
    rows = torch.as_tensor(rows, dtype=torch.int64)
    if len(missing := rows[~known["there"][rows]].tolist()):
        with stage("evaluation features", len(missing)) as at:
            for start in range(0, len(missing), BATCH):
                some = missing[start : start + BATCH]
                images = torch.from_numpy(image_set.images[some])
                known["features"][some] = features(network, images.flip(-1) if mirrored else images, on)
                known["there"][some] = True
                at.advance(len(some))
        with written(file) as partial:
            save_file(known, partial)
    return known["features"][rows]


def _read(file: Path, n: int, dim: int) -> dict[str, torch.Tensor]:
    try:
        known = load_file(file)
        if known["features"].shape == (n, dim):
            return known
    except Exception:  # absent, or damaged in any way: made anew
        pass
    return {"features": torch.zeros(n, dim), "there": torch.zeros(n, dtype=torch.bool)}


def digest(network: Network) -> str:
    """Of the network's kind, settings and weights."""
    how = [getattr(network, name, None) for name in ("size", "t", "alpha", "mean", "std")]
    found = hashlib.sha256(f"{type(network).__name__} {network.dim} {how}".encode())
    for name, weight in sorted(network.module.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


class Denoiser:
    """What the encoder half of a denoiser sees in an image with little noise on it (Xiang et al. 2023, Denoising
    Diffusion Autoencoders are Unified Self-supervised Learners, arXiv 2303.09769).

    The mean over the image of what each of the lowest levels and the middle block give, each normalised; so no
    statistics of some other set are needed. pretrained: a model folder or hub id. at: the share of T to look at.
    size: pixels that images are reduced to; None: those that the model was trained at.
    """

    def __init__(self, pretrained: str = "assets/features", at: float = 0.1, levels: int = 1, size: int | None = None):
        if not 0 <= at < 1:
            raise UserError(f"features.at={at} must be at least 0 and below 1.")
        require_whole("features.levels", levels)
        if size is not None:
            require_whole("features.size", size, least=8)
        model = folder.load(pretrained, "features.pretrained")
        if model.conditioner is not None:
            raise UserError(f"features.pretrained={pretrained} is told something: choose an unconditional model.")
        self.module = unet = model.unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.name = str(pretrained)
        total = len(model.scheduler.alphas_cumprod)
        self.t, self.alpha = int(at * total), float(model.scheduler.alphas_cumprod[int(at * total)]) ** 0.5
        self.size = model.size() if size is None else (size, size)
        self.levels = min(levels, len(unet.down_blocks))
        widths = list(unet.config.block_out_channels)
        self.dim = sum(widths[len(widths) - self.levels :]) + widths[-1]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        x = self.alpha * pixels.to_signed(resized(images, self.size))
        return torch.cat([F.layer_norm(h.mean((2, 3)), h.shape[1:2]) for h in self.levels_of(x)], dim=1)

    def levels_of(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of the lowest encoder levels and of the middle block, [B, C, h, w]."""
        unet = self.module
        t = torch.full((len(x),), self.t, device=x.device)
        emb = unet.time_embedding(unet.time_proj(t).to(x.dtype))
        h, seen = unet.conv_in(x), []
        for block in unet.down_blocks:
            h, _ = block(hidden_states=h, temb=emb)
            seen.append(h)
        return [*seen[len(seen) - self.levels :], unet.mid_block(h, emb)]


class Inception:
    """The 2048 features of FID: Inception v3 as ported from TensorFlow for torch-fidelity, from a file of its weights.

    weights: a .safetensors file, or the .pth file of torch-fidelity's releases, read without unpickling.
    """

    dim = 2048

    def __init__(self, weights: str):
        file, asked = require_path("features.weights", weights), f"features.weights={weights}"
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as theirs
        except ImportError as error:
            raise UserError('features=inception needs torch-fidelity: pip install "chrysalis[inception]".') from error
        try:
            safe = file.suffix == ".safetensors"
            state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
            self.module = _without_reading(theirs, state).requires_grad_(False).eval()
        except Exception as error:  # the readers of damaged files raise dozens of kinds
            why = (str(error) or type(error).__name__).strip().splitlines()[0][:200].rstrip(".")
            raise UserError(f"{asked} could not be loaded as torch-fidelity's Inception weights: {why}.") from error
        self.name = "Inception"

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(images)[0]


def _without_reading(theirs, state: dict) -> torch.nn.Module:
    """Their constructor would unpickle a file or fetch one; this gives it the weights in place of fetching."""
    fetch, theirs.load_state_dict_from_url = theirs.load_state_dict_from_url, lambda *where, **how: state
    try:
        return theirs.FeatureExtractorInceptionV3("inception", ["2048"])
    finally:
        theirs.load_state_dict_from_url = fetch


class Transformer:
    """DINOv2's class token, or CLIP's image embedding, from a folder or hub id; models of transformers that are
    built like one of them serve as well."""

    def __init__(self, pretrained: str):
        asked, like = f"features.pretrained={pretrained}", "facebook/dinov2-small"
        with transformers_folder.source(asked, pretrained, "a vision model", like, extra="clip") as where:
            from transformers import AutoImageProcessor, AutoModel

            model, report = AutoModel.from_pretrained(**where, weights_only=True, output_loading_info=True)
            transformers_folder.require_complete(report)
            vision = getattr(model.config, "vision_config", model.config)
            processor = AutoImageProcessor.from_pretrained(**where)
            self.size, self.mean, self.std = (
                _square(processor, vision.image_size),
                processor.image_mean,
                processor.image_std,
            )
            self.module, self.name = align(model.float()).requires_grad_(False).eval(), Path(str(pretrained)).name
            self.dim = self._looked_at_twice(asked)

    def _looked_at_twice(self, asked: str) -> int:
        """The length of an image's features; UserError for models that have none, or others every time."""
        image = torch.randint(256, (1, 3, *self.size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        with torch.no_grad():
            once, again = (self.embed(image) for _ in range(2))
        if once.ndim != 2 or not torch.equal(once, again):
            raise UserError(f"{asked} does not turn an image into one vector, as DINOv2 and CLIP do.")
        return once.shape[1]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        seen = (resized(images, self.size).float() / 255 - mean) / std
        if hasattr(self.module, "visual_projection"):
            return self.module.visual_projection(self.module.vision_model(pixel_values=seen).pooler_output)
        return self.module(pixel_values=seen).last_hidden_state[:, 0]


def _square(processor, trained_at: int) -> tuple[int, int]:
    """What the processor crops to in the end: images are resized to it, whole."""
    crop = getattr(processor, "crop_size", None) or {}
    return (crop["height"], crop["width"]) if "height" in crop else (trained_at, trained_at)


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 [B, 3, H, W] -> uint8 [B, 3, *size], antialiased; those that have the size already, untouched."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    how = {"mode": "bicubic", "antialias": True, "align_corners": False}
    return F.interpolate(images.float(), size, **how).round().clamp(0, 255).to(torch.uint8)
