"""The family of UNets that work on the latents of an autoencoder: UNet2DModel with a VQModel or an AutoencoderKL."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines import LDMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from chrysalis.data.batch import Batch
from chrysalis.data.pixels import to_signed, to_uint8
from chrysalis.data.store import ImageSet
from chrysalis.diffusion import seeds
from chrysalis.models import checks, training_scheduler
from chrysalis.models.layout import Layout, Weights
from chrysalis.models.pixel_unet import PixelUNet
from chrysalis.system.errors import UserError

CLASSES: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
FEW = 8  # images that are decoded at once: at a high resolution, a decoder needs much memory per image


class LatentUNet(PixelUNet):
    """UNet2DModel on latents z: x_0 = s z, with the autoencoder's scaling_factor s (Rombach et al. 2022).

    For an AutoencoderKL, z is sampled anew from its normal distribution each time that an image is trained on, and is
    the mean elsewhere. For a VQModel, z is what the encoder gives; decoding quantizes it. The autoencoder is never
    trained with the UNet, and always computes in float32.

    autoencoder: in the model's folder, the part `name`, as LDMPipeline calls it.
    """

    accepts, pipeline = "a latent one with its autoencoder", "LDMPipeline"
    name = "vqvae"

    def __init__(self, autoencoder: Any):
        self.autoencoder = autoencoder.float().requires_grad_(False).eval()
        config = autoencoder.config
        self.channels, self.scale = config.in_channels, config.scaling_factor
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.is_normal = isinstance(autoencoder, AutoencoderKL)

    def __deepcopy__(self, memo: dict) -> "LatentUNet":
        return self  # it is never changed

    @classmethod
    def reads(cls, layout: Layout) -> bool:
        known = layout.autoencoder is not None and layout.others <= {layout.autoencoder}
        return known and layout.unet.get("_class_name") == "UNet2DModel"

    @classmethod
    def other_weights(cls, layout: Layout) -> list[Path]:
        return [layout.folder / str(layout.autoencoder)]

    @classmethod
    def from_layout(cls, layout: Layout, weights: dict[Path, Weights]) -> "LatentUNet":
        """The family with the autoencoder of a folder. weights: by folder, the files to load."""
        at = layout.folder / str(layout.autoencoder)
        config = checks.read_json(at / "config.json")
        checks.require_sane(config, f"{at.name}/config.json")
        kind = CLASSES.get(str(config.get("_class_name")))
        latents = config.get("latent_channels", 4 if kind is AutoencoderKL else 3)
        if kind is None:
            raise UserError(
                f"{layout.argument} has {config.get('_class_name')} in {at.name}/: choose a model with "
                f"{' or '.join(CLASSES)}."
            )
        if any(config.get(name) is not None for name in ("shift_factor", "latents_mean", "latents_std")):
            raise UserError(
                f"{layout.argument} shifts its latents ({at.name}/config.json): choose one that scales them."
            )
        if (own := layout.unet.get("in_channels", 3)) != latents or layout.unet.get("out_channels", 3) != own:
            raise UserError(
                f"{layout.argument} has a UNet of {own} channels and an autoencoder of {latents} latent channels in "
                f"{at.name}/: give a folder whose parts belong together."
            )
        checks.require_plausible(config, [at / name for name in weights[at].names], kind)
        how = {"variant": weights[at].variant, "use_safetensors": not weights[at].pickled, "local_files_only": True}
        loaded, report = kind.from_pretrained(at, output_loading_info=True, low_cpu_mem_usage=False, **how)
        checks.require_complete(report, [loaded])
        return cls(loaded)

    @property
    def x0_channels(self) -> int:
        return self.autoencoder.config.latent_channels

    def prepare(self, image_set: ImageSet, rows: np.ndarray, device: torch.device) -> None:
        """Make the autoencoder ready to encode a set, of which `rows` are training images: a loaded one is."""

    def fingerprint(self) -> str:
        """A hash of the encoder, which changes whenever what `moments` returns would."""
        digest = hashlib.sha1(str(self.scale).encode())
        for name, weight in sorted(self.autoencoder.state_dict().items()):
            if not name.startswith(("decoder.", "post_quant")):
                digest.update(weight.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def _in_float32(self, x: torch.Tensor) -> Iterator[Any]:
        with torch.autocast(x.device.type, enabled=False):
            yield self.autoencoder.to(x.device)

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> torch.Tensor:
        """Encode uint8 images [B, C, H, W]: float32 [B, K, h, w], mean and log variance of z, or for a VQModel z."""
        with self._in_float32(images) as autoencoder:
            encoding = autoencoder.encode(to_signed(images))
            return encoding.latent_dist.parameters if self.is_normal else encoding.latents

    def encode_batch(self, batch: Batch) -> torch.Tensor:
        moments = self.moments(batch.image) if batch.moments is None else batch.moments
        if not self.is_normal:
            return self.scale * moments
        mean, log_variance = moments.chunk(2, dim=1)
        eps = seeds.normal([seeds.key(k, "latent") for k in batch.key.tolist()], mean.shape[1:], mean.device)
        return self.scale * (mean + eps * (log_variance.clamp(-30, 20) / 2).exp())  # diffusers' bounds

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Convert uint8 images [B, C, H, W] to x_0, float32 [B, c, h, w]."""
        moments = torch.cat([self.moments(few) for few in images.split(FEW)])
        return self.scale * (moments.chunk(2, dim=1)[0] if self.is_normal else moments)

    def _decoded(self, x: torch.Tensor) -> torch.Tensor:
        """Convert x_0, differentiably, to images [B, C, H, W] in about [-1, 1]."""
        with self._in_float32(x) as autoencoder:
            return autoencoder.decode(x.float() / self.scale).sample

    @torch.no_grad()
    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([to_uint8(self._decoded(few)) for few in x.split(FEW)])

    def rgb(self, x: torch.Tensor) -> torch.Tensor:
        return super().rgb(self._decoded(x))

    def needs_own_pipeline(self, unet: Any, conditioner: Any, merge: bool) -> bool:
        return super().needs_own_pipeline(unet, conditioner, merge) or not isinstance(unet.config["sample_size"], int)

    def export_plain(self, folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler) -> None:
        """Write an LDMPipeline, whose scheduler is DDIM."""
        ddim = training_scheduler.as_ddim(scheduler)
        pipeline: Any = LDMPipeline(vqvae=self.autoencoder, unet=unet, scheduler=ddim)
        pipeline.save_pretrained(folder, safe_serialization=True)

    def other_parts(self) -> dict[str, Any]:
        return {self.name: self.autoencoder}

    def weights(self) -> list[torch.Tensor]:
        return [*self.autoencoder.parameters()]
