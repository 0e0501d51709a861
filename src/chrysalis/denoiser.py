"""A UNet with its noise schedule, objective and conditioner: training takes its loss, sampling its predictions."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data.batch import Batch
from chrysalis.data.pixels import PixelCodec
from chrysalis.diffusion import seeds
from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.objective import Objective
from chrysalis.diffusion.prediction import Prediction
from chrysalis.diffusion.weighting import Uniform, Weighting


@dataclass(frozen=True)
class Loss:
    """The loss of B images at t, int64 [B]: `weighted`, float32 [B], is weight(t) `per_sample`; `value` is its mean."""

    value: torch.Tensor
    weighted: torch.Tensor
    per_sample: torch.Tensor
    t: torch.Tensor


class Denoiser(nn.Module):
    """A UNet with its noise schedule, objective and conditioner.

    Args:
        unet: a diffusers UNet2DModel.
        scheduler: its training scheduler, read for alphas_cumprod, never stepped.
        objective: what the UNet predicts.
        conditioner: attached to the UNet; None for an unconditional model.
        dropout: probability, in [0, 1], with which training replaces a condition by its null, the value that stands for
            "no condition" (conditions/conditioner.py), so that the model also learns the unconditional distribution.
        weighting: the weight of each timestep in the loss; None for uniform.
        noise_offset: standard deviation of one normal number per image and channel that is added to eps in training,
            so that the model learns to change overall brightness (Guttenberg 2023); 0 turns it off.
        codec: converts images to x_0 and back; None for PixelCodec, whose x_0 is the image itself in [-1, 1].
    """

    unet: Any  # a UNet2DModel
    __call__: Callable[..., Prediction]  # typed here, since nn.Module leaves it untyped

    def __init__(
        self,
        unet: nn.Module,
        scheduler,
        objective: Objective,
        conditioner: Conditioner | None = None,
        dropout: float = 0.0,
        weighting: Weighting | None = None,
        noise_offset: float = 0.0,
        codec: PixelCodec | None = None,
    ):
        super().__init__()
        self.unet, self.scheduler, self.objective = unet, scheduler, objective
        self.conditioner, self.dropout = conditioner, dropout
        self.weighting, self.noise_offset = weighting or Uniform(), noise_offset
        self.noise, self.codec = NoiseSchedule(scheduler.alphas_cumprod), codec or PixelCodec()
        self.autocast: torch.dtype | None = None  # dtype of the UNet's own autocast; None: as the caller has it

    @property
    def channels(self) -> int:
        """Number of channels of x_t."""
        return self.unet.config.in_channels

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Shape of x_t, (C, h, w), for images of `size`, (height, width) in pixels."""
        return self.channels, size[0] // self.codec.factor, size[1] // self.codec.factor

    @property
    def reads_captions(self) -> bool:
        """Whether captions are among the conditions."""
        return self.conditioner is not None and self.conditioner.text is not None

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> Prediction:
        """Predict, in float32, from x_t float [B, C, H, W] at timesteps t, [B] or a scalar.

        cond: values of the conditions by name, see conditions/conditioner.py; a missing one is null. If the model also
        predicts a variance (2C output channels), that half is dropped.
        """
        x = x_t.to(self.unet.dtype)
        with nullcontext() if self.autocast is None else torch.autocast(x_t.device.type, self.autocast):
            if self.conditioner is None:
                out = self.unet(x, t, return_dict=False)[0]
            else:
                out = self.conditioner(self.unet, x, t, cond)
        return Prediction(out[:, : x_t.shape[1]].float(), x_t, t.view(-1), self.noise, self.objective)

    def loss(self, batch: Batch) -> Loss:
        """The training loss of a batch, at t = floor(u T) with its `u`, and with eps seeded by each image's key.

        All but the UNet is computed in float32.
        """
        x0 = self.codec.encode_batch(batch)
        t = (batch.u * len(self.noise)).long()
        eps = seeds.normal(batch.key.tolist(), x0.shape[1:], x0.device)
        if self.noise_offset:
            offsets = [seeds.key(k, "offset") for k in batch.key.tolist()]
            eps = eps + self.noise_offset * seeds.normal(offsets, (x0.shape[1], 1, 1), x0.device)
        return self.loss_at(x0, t, eps, self._condition(batch, x0))

    def loss_at(self, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, cond: Mapping | None = None) -> Loss:
        """The loss of given (x0, t, eps): weight(t) mean((out - target)^2), with x_t = alpha(t) x0 + sigma(t) eps.

        x0: [B, C, H, W], as the codec encodes images. t: int64 [B]. eps: [B, C, H, W]. cond: see `forward`.
        """
        x_t = self.noise.add(x0, eps, t)
        target = self.objective.target(x0, eps, t, self.noise)
        per_sample = (self(x_t, t, cond).out - target).square().mean(dim=(1, 2, 3))
        weighted = self.weighting(t, self.noise, self.objective) * per_sample
        return Loss(weighted.mean(), weighted, per_sample, t)

    def _condition(self, batch: Batch, x0: torch.Tensor) -> dict | None:
        """The batch's condition, with random nulls for classifier-free guidance; x0 gives their shape."""
        if self.conditioner is None:
            return None
        dropped = batches.dropout(self.conditioner.names, batch.key.tolist(), self.dropout)
        return batches.with_nulls(batches.from_batch(batch, self.conditioner), self.conditioner, dropped, x0)
