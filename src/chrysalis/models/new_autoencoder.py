"""The small autoencoder of a latent model that is trained from scratch; it is trained first, on the same images."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.resnet import ResnetBlock2D
from filelock import FileLock
from torch.nn import functional as F

from chrysalis.data.pixels import to_signed
from chrysalis.data.store import ImageSet
from chrysalis.models.latent_unet import LatentUNet
from chrysalis.system import checkpoints, hardware
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text, written_folder
from chrysalis.system.ranges import Channels, Positive
from chrysalis.system.terminal import say, stage

SETTINGS = "settings.json"  # what the autoencoder was trained with, in its folder
KL_WEIGHT = 2.5e-7  # of the divergence of z from a standard normal
LOG_VARIANCE = -6.0  # of z, at the start
SCALES = 3  # resolutions at which the gradients of an image and of its reconstruction are compared
WARMUP = 50  # steps
BATCH_SIZE, CROP = 16, 64  # images, and pixels of a side
WHOLE, LARGEST = 0.25, 512  # fraction of the steps, the last ones, on whole images; pixels of a side at most


class NewLatentUNet(LatentUNet):
    """LatentUNet whose autoencoder is new: it is trained before the UNet, once in a run, whose folder keeps it.

    Args:
        run_dir: the run's folder, where autoencoder/ is its folder once it is trained.
        optimizer: parameters -> Optimizer, whose learning rate is the largest one.
        block_out_channels: channels of each resolution level, multiples of 8; each but the first halves the image.
        latent_channels: channels of the latents.
        steps: optimizer steps of the autoencoder, each on 16 crops of 64 pixels or as many pixels of whole images.
        recolor: change the colors of half of the crops, for a model that will be fine-tuned on images of other colors.
    """

    def __init__(
        self,
        run_dir: str,
        optimizer: Callable,
        block_out_channels: tuple[Channels, ...] = (16, 32, 64, 96),
        latent_channels: Channels = 8,
        steps: Positive = 2000,
        recolor: bool = False,
    ):
        if not block_out_channels or any(channels % 8 for channels in block_out_channels):
            channels = list(block_out_channels)
            raise UserError(f"model.autoencoder.block_out_channels={channels} must be one or more multiples of 8.")
        self.run_dir, self.steps, self.optimizer, self.recolor = Path(run_dir), steps, optimizer, recolor
        self.folder = self.run_dir / "autoencoder"
        self.settings = {"block_out_channels": list(block_out_channels), "latent_channels": latent_channels}
        self.settings |= {"steps": steps, "recolor": recolor}
        super().__init__(self._trained() if self._is_trained() else self._untrained())

    @property
    def is_ready(self) -> bool:
        return self._is_trained()

    def _is_trained(self, **more: str) -> bool:
        """Whether the run has the autoencoder of these settings. more: further settings that it must have."""
        file = self.folder / SETTINGS
        if not file.is_file():
            return False
        return (self.settings | more).items() <= read_mapping(file, "is damaged: delete it.").items()

    def _trained(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.folder, local_files_only=True)

    def _untrained(self) -> Any:
        levels = len(self.settings["block_out_channels"])
        new = AutoencoderKL(
            block_out_channels=tuple(self.settings["block_out_channels"]),
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=self.settings["latent_channels"],
            norm_num_groups=4,
            mid_block_add_attention=False,  # which is quadratic in the number of pixels
        )
        initialize(new)
        return new

    def prepare(self, image_set: ImageSet, rows: np.ndarray, device: torch.device) -> None:
        """Train the autoencoder on the rows of a set, unless the run has it.

        Raises UserError if the run was trained with an autoencoder that is gone.
        """
        resumed, data = checkpoints.any_in(self.run_dir), {"data": image_set.folder.name}
        with FileLock(self.folder.with_name(f".{self.folder.name}.lock")):
            if resumed and not self._is_trained():
                raise UserError(
                    f"{shown(self.folder)} is missing or not the one that the run was trained with: restore it, or "
                    "start again under another name."
                )
            if not resumed and not self._is_trained(**data):
                new = self._untrained().to(device)
                train(new, image_set.images, rows, self.steps, self.optimizer, self.recolor)
                with written_folder(self.folder) as partial:
                    new.save_pretrained(partial)
                    write_text(partial / SETTINGS, json.dumps(self.settings | data, indent=2) + "\n")
        super().__init__(self._trained())  # which another process may have trained


@torch.no_grad()
def initialize(autoencoder: Any) -> None:
    """Start with residual blocks that add nothing, and with a z that is nearly its mean.

    If one of them is missing, training stays for hundreds of steps where only edges and a mean color are right
    (docs/log.md).
    """
    for block in autoencoder.modules():
        if isinstance(block, ResnetBlock2D):
            for parameter in block.conv2.parameters():
                parameter.zero_()
    c = autoencoder.config.latent_channels
    autoencoder.quant_conv.weight[c:] = 0
    autoencoder.quant_conv.bias[c:] = LOG_VARIANCE


def train(
    autoencoder: Any, images: np.ndarray, rows: np.ndarray, steps: int, make_optimizer: Callable, recolor: bool = False
) -> None:
    """Train an autoencoder in place on random crops of some rows of uint8 images [N, C, H, W]; set its scaling_factor.

    The last quarter of the steps has whole images: group normalization divides by the deviation of all that it sees,
    which is larger in whole images than in crops, so that an autoencoder of crops gives whole images 0.9 times their
    contrast.

    The loss is the mean squared error of pixels and, at several resolutions, of their gradients, without which a small
    decoder blurs; and KL_WEIGHT times the divergence of z, for as many pixels as a crop has. The learning rate
    rises in WARMUP steps to the optimizer's and falls by a cosine.
    """
    parameters, device, rng = [*autoencoder.parameters()], autoencoder.device, np.random.default_rng(0)
    dtype = hardware.AUTOCAST[hardware.precision("auto", device.type)[0]]
    dtype = None if dtype is torch.float16 else dtype  # which would need a scaled loss
    optimizer = make_optimizer(parameters)
    with torch.random.fork_rng(), torch.enable_grad(), stage("training the autoencoder", steps) as progress:
        torch.manual_seed(0)
        for step in range(steps):
            # 1. The loss of reconstructions from a sample of z
            side = CROP if step < (1 - WHOLE) * steps else LARGEST
            x = to_signed(torch.from_numpy(_crops(images, rows, side, rng)).to(device))
            if recolor:
                half = torch.rand(len(x), device=x.device) < 0.5  # whether mirrored or not
                x[half] = _recolored(x[half])
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                posterior = autoencoder.encode(x).latent_dist
                error = autoencoder.decode(posterior.sample()).sample.float() - x
            kl = DiagonalGaussianDistribution(posterior.parameters.float()).kl().mean()
            loss = error.square().mean() + KL_WEIGHT * CROP**2 / x[0, 0].numel() * kl
            for _ in range(SCALES):
                loss = loss + (error.diff(dim=2).square().mean() + error.diff(dim=3).square().mean()) / SCALES
                error = F.avg_pool2d(error, 2)
            # 2. One step of the optimizer
            factor = min((step + 1) / WARMUP, 0.5 + 0.5 * np.cos(np.pi * step / steps))
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * factor
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            progress.advance(1)
    _set_scale(autoencoder, images[rows[:: -(-len(rows) // 64)]])


def _crops(images: np.ndarray, rows: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Random crops of random rows, uint8 [B, C, h, w], of which every second one is mirrored.

    B is 16 for crops of 64 px; larger ones are fewer, with as many pixels in all. side: that of crops, at most.
    """
    height, width = (min(side, whole) for whole in images.shape[2:])
    n = min(BATCH_SIZE, max(1, BATCH_SIZE * CROP**2 // (height * width)))
    ranges = (len(rows), images.shape[2] - height + 1, images.shape[3] - width + 1)
    places = zip(*(rng.integers(high, size=n) for high in ranges), strict=True)
    crops = [images[rows[i], :, y : y + height, x : x + width] for i, y, x in places]
    return np.stack([crop[..., ::-1] if k % 2 else crop for k, crop in enumerate(crops)])


def _recolored(x: torch.Tensor) -> torch.Tensor:
    """Permute the channels of images in [-1, 1] and change their saturation, contrast and brightness at random."""
    order = torch.rand(len(x), x.shape[1], device=x.device).argsort(1)
    x = torch.take_along_dim(x, order[:, :, None, None], 1)
    saturation, contrast, offset = (
        low + (high - low) * torch.rand(len(x), 1, 1, 1, device=x.device)
        for low, high in ((0.5, 2.5), (0.7, 1.4), (-0.2, 0.2))
    )
    grey = x.mean(1, keepdim=True)
    return (contrast * (grey + saturation * (x - grey)) + offset).clamp(-1, 1)


@torch.no_grad()
def _set_scale(autoencoder: Any, images: np.ndarray) -> None:
    """Set the scaling_factor with which latents have a standard deviation of 1, and say how good the decoder is."""
    latents, squared = [], 0.0
    for image in images:
        x = to_signed(torch.from_numpy(image[None].copy())).to(autoencoder.device)
        latents.append(autoencoder.encode(x).latent_dist.mean)
        squared += (autoencoder.decode(latents[-1]).sample.clamp(-1, 1) - x).square().mean().item() / len(images)
    scale = 1 / torch.cat(latents).std().item()
    if not (math.isfinite(scale) and math.isfinite(squared)):
        raise UserError("The new autoencoder has diverged: lower model.autoencoder.optimizer.lr.")
    autoencoder.register_to_config(scaling_factor=scale)
    say(f"the autoencoder reconstructs its training images with a PSNR of {10 * np.log10(4 / squared):.1f} dB")
