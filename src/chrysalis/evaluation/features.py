"""Networks that turn images into feature vectors: the bundled denoiser, Inception, DINOv2 or CLIP."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.store import ImageSet
from chrysalis.models import folder
from chrysalis.system import hub, memory
from chrysalis.system.errors import UserError, first_line, require_path
from chrysalis.system.files import cache_folder, written
from chrysalis.system.memory import align
from chrysalis.system.ranges import FractionBelow1, Pixels, Positive
from chrysalis.system.terminal import stage

BATCH_SIZE = 64


class Network(Protocol):
    """A feature extractor. name: for display. dim: length of a feature vector. module: frozen, movable."""

    name: str
    dim: int
    module: torch.nn.Module

    def embed(self, images: Tensor) -> Tensor:
        """Turn uint8 images [B, 3, H, W] of any size, on the module's device, into float features [B, dim]."""
        ...


def extract(network: Network, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Features float32 [N, dim], on the CPU, of uint8 images [N, 3, H, W]; each image's are independent of the others.
    Raises UserError if they are not finite."""
    network.module.to(device)
    if not len(images):
        return torch.empty(0, network.dim)

    def embed(rows: slice) -> Tensor:
        return network.embed(images[rows].to(device)).float().cpu()

    with torch.no_grad():
        features = memory.in_batches(embed, len(images), BATCH_SIZE, torch.device(device))
    if not features.isfinite().all():
        raise UserError(f"The features of {network.name} contain NaN or infinity: choose another network (features=).")
    return features


def extract_rows(
    network: Network,
    image_set: ImageSet,
    rows: Sequence[int] | np.ndarray,
    mirrored: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features float32 [len(rows), dim] of rows of a decoded set, or of their mirror images.

    They are kept in the cache folder, keyed by the images' contents and size and by the network's weights.
    """
    identity = [image_set.folder.name, *map(str, image_set.images.shape[1:]), network_digest(network), str(mirrored)]
    name = hashlib.sha256(" ".join(identity).encode()).hexdigest()[:24]
    file = cache_folder() / "features" / f"{name}.safetensors"
    cached = _read_cache(file, len(image_set), network.dim)
    wanted = torch.as_tensor(rows, dtype=torch.int64)
    if len(missing := wanted[~cached["there"][wanted]].tolist()):
        with stage("evaluation features", len(missing)) as progress:
            for start in range(0, len(missing), BATCH_SIZE):
                batch = missing[start : start + BATCH_SIZE]
                images = torch.from_numpy(image_set.images[batch])
                cached["features"][batch] = extract(network, images.flip(-1) if mirrored else images, device)
                cached["there"][batch] = True
                progress.advance(len(batch))
        with written(file) as partial:
            save_file(cached, partial)
    return cached["features"][wanted]


def _read_cache(file: Path, n: int, dim: int) -> dict[str, Tensor]:
    try:
        cached = load_file(file)
        if cached["features"].shape == (n, dim):
            return cached
    except Exception:  # missing, or damaged in any manner: computed again
        pass
    return {"features": torch.zeros(n, dim), "there": torch.zeros(n, dtype=torch.bool)}


def network_digest(network: Network) -> str:
    """A hash of the network's class, settings and weights."""
    settings = [getattr(network, name, None) for name in ("size", "t", "alpha", "mean", "std")]
    digest = hashlib.sha256(f"{type(network).__name__} {network.dim} {settings}".encode())
    for name, weight in sorted(network.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class DenoiserEncoder:
    """Activations of a denoiser's encoder on an image with little noise (Xiang et al. 2023, Denoising Diffusion
    Autoencoders are Unified Self-supervised Learners, arXiv 2303.09769).

    The features are the spatial means of the lowest levels and of the middle block, each normalized, so that they need
    no statistics of another data set. pretrained: a model folder or hub id. at: timestep as a fraction of T. levels:
    number of encoder levels, from the lowest. size: of the resized images in pixels; None: the training size.
    """

    def __init__(
        self,
        pretrained: str = "assets/features",
        at: FractionBelow1 = 0.1,
        levels: Positive = 1,
        size: Pixels | None = None,
    ):
        model = folder.load(pretrained, "features.pretrained")
        if model.conditioner is not None:
            raise UserError(f"features.pretrained={pretrained} is a conditional model: choose an unconditional one.")
        unet: Any = model.unet  # diffusers wraps `to`, and its configuration has no types
        self.unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.module: torch.nn.Module = self.unet
        self.name = str(pretrained)
        alphas_cumprod = model.scheduler.alphas_cumprod
        self.t = int(at * len(alphas_cumprod))
        self.alpha = float(alphas_cumprod[self.t]) ** 0.5
        self.size = model.size() if size is None else (size, size)
        self.levels = min(levels, len(self.unet.down_blocks))
        widths = list(self.unet.config.block_out_channels)
        self.dim = sum(widths[len(widths) - self.levels :]) + widths[-1]

    def embed(self, images: Tensor) -> Tensor:
        x = self.alpha * pixels.to_signed(resized(images, self.size))
        return torch.cat([F.layer_norm(h.mean((2, 3)), h.shape[1:2]) for h in self._activations(x)], dim=1)

    def _activations(self, x: Tensor) -> list[Tensor]:
        """The outputs of the lowest encoder levels and of the middle block, each [B, C, h, w]."""
        t = torch.full((len(x),), self.t, device=x.device)
        emb = self.unet.time_embedding(self.unet.time_proj(t).to(x.dtype))
        h, outputs = self.unet.conv_in(x), []
        for block in self.unet.down_blocks:
            h, _ = block(hidden_states=h, temb=emb)
            outputs.append(h)
        return [*outputs[len(outputs) - self.levels :], self.unet.mid_block(h, emb)]


class Inception:
    """The 2048 features of FID: TensorFlow's Inception v3 as ported for torch-fidelity.

    weights: a .safetensors file, or the .pth file of torch-fidelity's releases, which is read without unpickling.
    """

    dim = 2048

    def __init__(self, weights: str):
        file, setting = require_path("features.weights", weights), f"features.weights={weights}"
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as torch_fidelity
        except ImportError as error:
            raise UserError('features=inception needs torch-fidelity: pip install "chrysalis[inception]".') from error
        try:
            safe = file.suffix == ".safetensors"
            state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
            self.module = _build_inception(torch_fidelity, state).requires_grad_(False).eval()
        except Exception as error:  # readers of damaged files raise dozens of exception types
            why = first_line(error)
            raise UserError(f"{setting} could not be loaded as torch-fidelity's Inception weights: {why}.") from error
        self.name = "Inception"

    def embed(self, images: Tensor) -> Tensor:
        return self.module(images)[0]


def _build_inception(torch_fidelity: Any, state: Mapping[str, Tensor]) -> torch.nn.Module:
    """Build their extractor from `state`: its constructor alone would download a file or unpickle one."""
    download = torch_fidelity.load_state_dict_from_url
    torch_fidelity.load_state_dict_from_url = lambda *args, **kwargs: state
    try:
        return torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048"])
    finally:
        torch_fidelity.load_state_dict_from_url = download


class Transformer:
    """DINOv2's class token or CLIP's image embedding, from a folder or hub id; other transformers models of the same
    architecture work too."""

    def __init__(self, pretrained: str):
        setting, like = f"features.pretrained={pretrained}", "facebook/dinov2-small"
        with hub.transformers_source(setting, pretrained, "a vision model", like, extra="clip") as where:
            from transformers import AutoImageProcessor, AutoModel

            model, report = AutoModel.from_pretrained(**where, weights_only=True, output_loading_info=True)
            hub.require_complete(report)
            vision = getattr(model.config, "vision_config", model.config)
            processor = AutoImageProcessor.from_pretrained(**where)
            self.size = _input_size(processor, vision.image_size)
            self.mean, self.std = processor.image_mean, processor.image_std
            self.module, self.name = align(model.float()).requires_grad_(False).eval(), Path(str(pretrained)).name
            self.dim = self._feature_length(setting)

    def _feature_length(self, setting: str) -> int:
        """Embed an image twice to find dim; raises UserError for models without one deterministic vector."""
        image = torch.randint(256, (1, 3, *self.size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        with torch.no_grad():
            first, second = (self.embed(image) for _ in range(2))
        if first.ndim != 2 or not torch.equal(first, second):
            raise UserError(f"{setting} does not turn an image into one vector, as DINOv2 and CLIP do.")
        return first.shape[1]

    def embed(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        x = (resized(images, self.size).float() / 255 - mean) / std
        model: Any = self.module  # either of two architectures
        if hasattr(model, "visual_projection"):
            return model.visual_projection(model.vision_model(pixel_values=x).pooler_output)
        return model(pixel_values=x).last_hidden_state[:, 0]


def _input_size(processor: Any, trained_at: int) -> tuple[int, int]:
    """The size that the processor finally crops to; whole images are resized to it instead."""
    crop = getattr(processor, "crop_size", None) or {}
    return (crop["height"], crop["width"]) if "height" in crop else (trained_at, trained_at)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [B, 3, H, W] to uint8 [B, 3, *size], antialiased; images of that size already stay as they are."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    x = F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).to(torch.uint8)
