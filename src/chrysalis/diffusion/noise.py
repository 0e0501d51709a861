"""alpha(t), sigma(t) and SNR(t), read off any diffusers scheduler with a discrete variance-preserving schedule."""

from collections.abc import Callable

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
        return self._at(self.alphas, t, lambda ratio: (1 + ratio.square()).rsqrt()).view(-1, 1, 1, 1)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """[B] timesteps -> [B, 1, 1, 1]."""
        return self._at(self.sigmas, t, lambda ratio: ratio * (1 + ratio.square()).rsqrt()).view(-1, 1, 1, 1)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """[B] timesteps -> [B], alpha^2 / sigma^2."""
        return self._at(self.snrs, t, lambda ratio: ratio.pow(-2))

    def add(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t [B, C, H, W] from x_0 and eps of the same shape and t [B]."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def add_more(self, x: torch.Tensor, eps: torch.Tensor, at: torch.Tensor | None, t: torch.Tensor) -> torch.Tensor:
        """x at level `at` (None: clean) noised further to x_t, t > at: sqrt(r) x + sqrt(1 - r) eps.

        r = abar(t) / abar(at), the forward process between the two (Bansal et al. 2023, arXiv 2302.07121, alg. 1).
        """
        r = self.alpha(t).square()
        if at is not None:
            r = (r / self.alpha(at).square()).clamp(max=1)
        return r.sqrt() * x + (1 - r).sqrt() * eps

    def _at(self, table: torch.Tensor, t: torch.Tensor, of_ratio: Callable) -> torch.Tensor:
        """The table's value; between two whole timesteps, where some schedulers step, from their noise levels.

        There log(sigma / alpha) is linear in t (Karras et al. 2022), as diffusers maps such levels to timesteps.
        """
        t = torch.as_tensor(t, device=table.device)
        if not t.is_floating_point():
            return table[t]
        t = t.to(torch.float64 if t.device.type != "mps" else torch.float32).clamp(0, len(self) - 1)
        low = t.floor().long()
        high = (low + 1).clamp(max=len(self) - 1)
        log_ratio = -self.snrs.to(t.dtype).log() / 2
        between = of_ratio(torch.lerp(log_ratio[low], log_ratio[high], t - low).exp()).float()
        return torch.where(t == low, table[low], between)
