"""Networks that turn images into feature vectors: the bundled denoiser, Inception, DINOv2 or CLIP."""

import hashlib
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from chrysalis.data.pixels import as_rgb
from chrysalis.data.store import ImageSet
from chrysalis.models import folder
from chrysalis.system import hub, memory
from chrysalis.system.errors import UserError, first_line, require_path
from chrysalis.system.files import cache_folder, written
from chrysalis.system.memory import align
from chrysalis.system.ranges import FeaturePixels, FractionBelow1, Positive
from chrysalis.system.terminal import stage

BATCH_SIZE = 64


class Network(Protocol):
    """A feature extractor.

    name: for display. dim: length of a feature vector. module: frozen, movable. embed: turns uint8 images [B, 3, H, W]
    of any size, on the module's device, into float features [B, dim].
    """

    name: str
    dim: int
    module: torch.nn.Module

    def embed(self, images: Tensor) -> Tensor: ...


def extract(network: Network, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Compute features float32 [N, dim], on the CPU, of uint8 images [N, C, H, W], each independent of the others.

    Grey and RGBA images are converted to RGB. Raises UserError if a feature is not finite.
    """
    network.module.to(device)

    def embed(rows: slice) -> Tensor:
        return network.embed(as_rgb(images[rows].to(device))).float().cpu()

    with torch.no_grad():
        features = memory.in_batches(embed, len(images), BATCH_SIZE, torch.device(device))
    if not features.isfinite().all():
        raise UserError(f"The features of {network.name} contain NaN or infinity: choose another network (features=).")
    return features


def extract_rows(
    network: Network, image_set: ImageSet, rows: np.ndarray, mirrored: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """Compute features float32 [len(rows), dim] of rows of a decoded set, or of their mirror images.

    They are kept in the cache folder, keyed by the images' contents and size, the rows and the network's weights.
    """
    identity = [image_set.folder.name, *map(str, image_set.images.shape[1:]), network_digest(network), str(mirrored)]
    name = hashlib.sha256(" ".join(identity).encode() + rows.tobytes()).hexdigest()[:24]
    file = cache_folder() / "features" / f"{name}.safetensors"
    try:
        return load_file(file)["features"]
    except Exception:  # missing, or damaged in any manner: computed again
        pass
    features = []
    with stage("evaluation features", len(rows)) as progress:
        for part in np.split(rows, range(BATCH_SIZE, len(rows), BATCH_SIZE)):
            images = torch.from_numpy(image_set.images[part])
            features.append(extract(network, images.flip(-1) if mirrored else images, device))
            progress.advance(len(part))
    with written(file) as partial:
        save_file({"features": torch.cat(features)}, partial)
    return torch.cat(features)


def network_digest(network: Network) -> str:
    """A hash of the network's class, settings and weights."""
    settings = [getattr(network, name, None) for name in ("size", "t", "alpha", "mean", "std")]
    digest = hashlib.sha256(f"{type(network).__name__} {network.dim} {settings}".encode())
    for name, weight in sorted(network.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class DenoiserEncoder:
    """Activations of a denoiser's encoder on alpha(t) x_0 at a small t, without noise (after Xiang et al. 2023,
    Denoising Diffusion Autoencoders are Unified Self-supervised Learners, arXiv 2303.09769).

    The features are the spatial means of the last levels and of the middle block, each normalized, so that they need
    no statistics of another data set. pretrained: a model folder or hub id. timestep: as a fraction of T. levels:
    number of encoder levels, the last ones. size: pixels a side that images are resized to; None: the training size.
    """

    def __init__(
        self,
        pretrained: str = "assets/features",
        timestep: FractionBelow1 = 0.1,
        levels: Positive = 1,
        size: FeaturePixels | None = None,
    ):
        model = folder.load(pretrained, "features.pretrained")
        if model.conditioner is not None:
            raise UserError(f"features.pretrained={pretrained} is a conditional model: choose an unconditional one.")
        if model.family.channels != 3:
            raise UserError(f"features.pretrained={pretrained} is not a model of RGB images: choose one that is.")
        unet: Any = model.unet  # diffusers wraps `to`, and its configuration has no types
        self.module: Any = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.name = str(pretrained)
        self.codec = model.family
        self.t = int(timestep * len(model.scheduler.alphas_cumprod))
        self.alpha = float(model.scheduler.alphas_cumprod[self.t]) ** 0.5
        self.size = model.size() if size is None else (size, size)
        self.levels = min(levels, len(self.module.down_blocks))
        widths = list(self.module.config.block_out_channels)
        self.dim = sum(widths[-self.levels :]) + widths[-1]

    def embed(self, images: Tensor) -> Tensor:
        x = self.alpha * self.codec.encode(resized(images, self.size))
        t = torch.full((len(x),), self.t, device=x.device)
        emb = self.module.time_embedding(self.module.time_proj(t).to(x.dtype))
        h, outputs = self.module.conv_in(x), []
        for block in self.module.down_blocks:
            h, _ = block(hidden_states=h, temb=emb)
            outputs.append(h)
        last = [*outputs[-self.levels :], self.module.mid_block(h, emb)]
        return torch.cat([F.layer_norm(h.mean((2, 3)), h.shape[1:2]) for h in last], dim=1)


class Inception:
    """The 2048 features of FID: TensorFlow's Inception v3 as ported for torch-fidelity.

    weights: a .safetensors file, or the .pth file of torch-fidelity's releases, which is read without unpickling.
    """

    dim, name = 2048, "Inception"

    def __init__(self, weights: str):
        file, setting = require_path("features.weights", weights), f"features.weights={weights}"
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError('features=inception needs torch-fidelity: pip install "chrysalis[inception]".') from error
        try:
            safe = file.suffix == ".safetensors"
            state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
            copy = io.BytesIO()  # torch-fidelity unpickles what it reads: only what was read safely
            torch.save(state, copy)
            copy.seek(0)
            self.module = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=copy)
        except Exception as error:  # readers of damaged files raise dozens of exception types
            why = f"{first_line(error)}. Give the .pth file of its releases"
            raise UserError(f"{setting} could not be loaded as torch-fidelity's Inception weights: {why}.") from error

    def embed(self, images: Tensor) -> Tensor:
        return self.module(images)[0]


class Transformer:
    """DINOv2's class token or CLIP's image embedding, from a folder or hub id; other transformers models of the same
    architecture work too."""

    module: Any  # either of two architectures

    def __init__(self, pretrained: str):
        setting, like = f"features.pretrained={pretrained}", "facebook/dinov2-small"
        with hub.transformers_source(setting, pretrained, "a vision model", like, extra="clip") as where:
            from transformers import AutoImageProcessor, AutoModel

            model, report = AutoModel.from_pretrained(**where, weights_only=True, output_loading_info=True)
            hub.require_complete(report)
            vision = getattr(model.config, "vision_config", model.config)
            processor = AutoImageProcessor.from_pretrained(**where)
            # the size that the processor finally crops to; whole images are resized to it instead
            crop, trained_at = getattr(processor, "crop_size", None) or {}, vision.image_size
            self.size = (crop.get("height", trained_at), crop.get("width", trained_at))
            self.mean, self.std = processor.image_mean, processor.image_std
            self.module, self.name = align(model.float()).requires_grad_(False).eval(), Path(str(pretrained)).name
            image = torch.randint(256, (1, 3, *self.size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
            with torch.no_grad():
                first, second = (self.embed(image) for _ in range(2))
            if first.ndim != 2 or not torch.equal(first, second):
                raise UserError(f"{setting} does not turn an image into one vector: use a DINOv2 or CLIP model.")
            self.dim = first.shape[1]

    def embed(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        x = (resized(images, self.size).float() / 255 - mean) / std
        if hasattr(self.module, "visual_projection"):
            return self.module.visual_projection(self.module.vision_model(pixel_values=x).pooler_output)
        return self.module(pixel_values=x).last_hidden_state[:, 0]


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [B, C, H, W] to uint8 [B, C, *size], antialiased; images of that size stay as they are."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    x = F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).to(torch.uint8)
