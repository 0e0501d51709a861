"""The heart: a UNet that knows its noise and its objective. Training asks it for a loss; sampling for steps."""

from dataclasses import dataclass

import torch
from torch import nn

from chrysalis import pixels, seeds
from chrysalis.batch import Batch
from chrysalis.noise import Noise
from chrysalis.objective import Objective


@dataclass(frozen=True)
class Loss:
    """value: scalar mean of weighted; weighted, per_sample: float32 [B]; t: int64 [B]."""

    value: torch.Tensor
    weighted: torch.Tensor
    per_sample: torch.Tensor
    t: torch.Tensor


class Denoiser(nn.Module):
    """UNet + training scheduler + objective.

    unet: a diffusers UNet2DModel. scheduler: its training scheduler, read for alphas_cumprod, never stepped.
    """

    def __init__(self, unet: nn.Module, scheduler, objective: Objective):
        super().__init__()
        self.unet, self.scheduler, self.objective = unet, scheduler, objective
        self.noise = Noise(scheduler.alphas_cumprod)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t float [B, C, H, W], t int64 [B] or scalar -> prediction float32 [B, C, H, W].

        A model with a learned variance gives 2C channels; the second half is left out here.
        """
        out = self.unet(x_t.to(self.unet.dtype), t, return_dict=False)[0]
        return out[:, : x_t.shape[1]].float()

    def loss(self, batch: Batch) -> Loss:
        """The training loss on a batch: everything but the UNet in float32, timesteps and noise from the keys."""
        x0 = pixels.to_signed(batch.image)
        t = (batch.u * len(self.noise)).long()
        eps = seeds.normal(batch.key.tolist(), x0.shape[1:], x0.device)
        if self.objective.noise_offset:
            offsets = [seeds.key(k, "offset") for k in batch.key.tolist()]
            eps = eps + self.objective.noise_offset * seeds.normal(offsets, (x0.shape[1], 1, 1), x0.device)
        return self.loss_at(x0, t, eps)

    def loss_at(self, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> Loss:
        """The loss of given triples: x0 in [-1, 1] and eps [B, C, H, W], t int64 [B]."""
        out = self(self.noise.add(x0, eps, t), t)
        target = self.objective.target(x0, eps, t, self.noise)
        per_sample = (out - target).square().mean(dim=(1, 2, 3))
        weighted = self.objective.weight(t, self.noise) * per_sample
        return Loss(weighted.mean(), weighted, per_sample, t)
