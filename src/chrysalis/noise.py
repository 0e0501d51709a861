"""alpha(t), sigma(t) and SNR(t), read off any diffusers scheduler with a discrete variance-preserving schedule."""

import torch
from torch import nn


class Noise(nn.Module):
    """x_t = alpha(t) x_0 + sigma(t) eps, alpha^2 + sigma^2 = 1 (Ho et al. 2020, eq. 4).

    Takes `alphas_cumprod` float [T]; computed in float64, kept in float32 buffers that are not saved.
    """

    def __init__(self, alphas_cumprod: torch.Tensor):
        super().__init__()
        abar = alphas_cumprod.detach().to("cpu", torch.float64)
        self.register_buffer("alphas", abar.sqrt().float(), persistent=False)
        self.register_buffer("sigmas", (1 - abar).sqrt().float(), persistent=False)
        self.register_buffer("snrs", (abar / (1 - abar)).float(), persistent=False)

    def _apply(self, fn, recurse=True):
        """Move with the module, but stay float32: bf16 would round t = 999 to another noise level."""
        moved = super()._apply(fn, recurse)
        for name, value in moved._buffers.items():
            moved._buffers[name] = value.float()
        return moved

    def __len__(self) -> int:
        return len(self.alphas)

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """[B] timesteps -> [B, 1, 1, 1]."""
        return self.alphas[t].view(-1, 1, 1, 1)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """[B] timesteps -> [B, 1, 1, 1]."""
        return self.sigmas[t].view(-1, 1, 1, 1)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """[B] timesteps -> [B], alpha^2 / sigma^2."""
        return self.snrs[t]

    def add(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t [B, C, H, W] from x_0 and eps of the same shape and t int64 [B]."""
        return self.alpha(t) * x0 + self.sigma(t) * eps
