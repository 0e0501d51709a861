"""The heart: a UNet that knows its noise, objective and condition. Training asks for a loss; sampling for steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.data.batch import Batch
from chrysalis.diffusion import seeds
from chrysalis.diffusion.noise import Noise
from chrysalis.diffusion.objective import Objective
from chrysalis.system.errors import UserError


@dataclass(frozen=True)
class Loss:
    """value: scalar mean of weighted; weighted, per_sample: float32 [B]; t: int64 [B]."""

    value: torch.Tensor
    weighted: torch.Tensor
    per_sample: torch.Tensor
    t: torch.Tensor


class Denoiser(nn.Module):
    """UNet + training scheduler + objective + conditioner.

    unet: a diffusers UNet2DModel. scheduler: its training scheduler, read for alphas_cumprod, never stepped.
    conditioner: of a UNet that takes a condition, or None. dropout: how often training takes the condition away.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler,
        objective: Objective,
        conditioner: Conditioner | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise UserError(f"condition.dropout={dropout} must lie between 0 and 1.")
        self.unet, self.scheduler, self.objective = unet, scheduler, objective
        self.conditioner, self.dropout = conditioner, dropout
        self.noise = Noise(scheduler.alphas_cumprod)

    @property
    def channels(self) -> int:
        """Of x_t."""
        return self.unet.config.in_channels if self.conditioner is None else self.conditioner.config.own_channels

    @property
    def reads_captions(self) -> bool:
        return self.conditioner is not None and self.conditioner.text is not None

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> torch.Tensor:
        """x_t float [B, C, H, W], t int64 [B] or scalar -> prediction float32 [B, C, H, W].

        cond: what a conditional model is told, see conditions/conditioner.py; what is not given is null.
        A model with a learned variance gives 2C channels; the second half is left out here.
        """
        x = x_t.to(self.unet.dtype)
        out = (
            self.unet(x, t, return_dict=False)[0]
            if self.conditioner is None
            else self.conditioner(self.unet, x, t, cond)
        )
        return out[:, : x_t.shape[1]].float()

    def loss(self, batch: Batch) -> Loss:
        """The training loss on a batch: everything but the UNet in float32, timesteps and noise from the keys."""
        x0 = pixels.to_signed(batch.image)
        t = (batch.u * len(self.noise)).long()
        eps = seeds.normal(batch.key.tolist(), x0.shape[1:], x0.device)
        if self.objective.noise_offset:
            offsets = [seeds.key(k, "offset") for k in batch.key.tolist()]
            eps = eps + self.objective.noise_offset * seeds.normal(offsets, (x0.shape[1], 1, 1), x0.device)
        return self.loss_at(x0, t, eps, self._condition(batch, x0))

    def _condition(self, batch: Batch, x0: torch.Tensor) -> dict | None:
        """The batch's condition, without what dropout takes, so that the model also learns to do without."""
        if self.conditioner is None:
            return None
        gone = batches.dropped(self.conditioner.names, batch.key.tolist(), self.dropout)
        return batches.without(batches.of_batch(batch, self.conditioner), self.conditioner, gone, x0)

    def loss_at(self, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, cond: Mapping | None = None) -> Loss:
        """The loss of given triples: x0 in [-1, 1] and eps [B, C, H, W], t int64 [B]."""
        out = self(self.noise.add(x0, eps, t), t, cond)
        target = self.objective.target(x0, eps, t, self.noise)
        per_sample = (out - target).square().mean(dim=(1, 2, 3))
        weighted = self.objective.weight(t, self.noise) * per_sample
        return Loss(weighted.mean(), weighted, per_sample, t)
