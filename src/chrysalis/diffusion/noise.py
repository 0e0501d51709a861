"""alpha(t), sigma(t) and SNR(t), read off any diffusers scheduler with a discrete variance-preserving schedule."""

from collections.abc import Callable

import torch
from torch import nn


class NoiseSchedule(nn.Module):
    """The noise schedule: x_t = alpha(t) x_0 + sigma(t) eps, with alpha^2 + sigma^2 = 1 (Ho et al. 2020, eq. 4).

    Computed in float64 from `alphas_cumprod` float [T], and kept in float32 buffers that are not saved.
    """

    alphas: torch.Tensor
    sigmas: torch.Tensor
    snrs: torch.Tensor

    def __init__(self, alphas_cumprod: torch.Tensor):
        super().__init__()
        abar = alphas_cumprod.detach().to("cpu", torch.float64)
        self.register_buffer("alphas", abar.sqrt().float(), persistent=False)
        self.register_buffer("sigmas", (1 - abar).sqrt().float(), persistent=False)
        self.register_buffer("snrs", (abar / (1 - abar)).float(), persistent=False)

    def _apply(self, fn, recurse=True):
        """Move with the module but stay float32: bfloat16 would round t = 999 to another noise level."""
        moved = super()._apply(fn, recurse)
        for name, value in moved._buffers.items():
            moved._buffers[name] = None if value is None else value.float()
        return moved

    def __len__(self) -> int:
        return len(self.alphas)

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """alpha [B, 1, 1, 1] at timesteps t [B]."""
        return self._at(self.alphas, t, lambda ratio: (1 + ratio.square()).rsqrt()).view(-1, 1, 1, 1)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """sigma [B, 1, 1, 1] at timesteps t [B]."""
        return self._at(self.sigmas, t, lambda ratio: ratio * (1 + ratio.square()).rsqrt()).view(-1, 1, 1, 1)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """alpha^2 / sigma^2 [B] at timesteps t [B]."""
        return self._at(self.snrs, t, lambda ratio: ratio.pow(-2))

    def add(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps, all [B, C, H, W], at timesteps t [B]."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def add_more(self, x: torch.Tensor, eps: torch.Tensor, at: torch.Tensor | None, t: torch.Tensor) -> torch.Tensor:
        """Noise x from timestep `at` (None: clean) to t > at: sqrt(r) x + sqrt(1 - r) eps, r = abar(t) / abar(at).

        This is the forward process between the two (Bansal et al. 2023, arXiv 2302.07121, alg. 1).
        """
        r = self.alpha(t).square()
        if at is not None:
            r = (r / self.alpha(at).square()).clamp(max=1)
        return r.sqrt() * x + (1 - r).sqrt() * eps

    def _at(self, table: torch.Tensor, t: torch.Tensor, from_ratio: Callable) -> torch.Tensor:
        """The table's value at whole timesteps; between two, `from_ratio` of the interpolated sigma / alpha.

        Some schedulers step between timesteps, where diffusers takes log(sigma / alpha) as linear in t (Karras et al.
        2022).
        """
        t = torch.as_tensor(t, device=table.device)
        if not t.is_floating_point():
            return table[t]
        t = t.to(torch.float64 if t.device.type != "mps" else torch.float32).clamp(0, len(self) - 1)
        low = t.floor().long()
        high = (low + 1).clamp(max=len(self) - 1)
        log_ratio = -self.snrs.to(t.dtype).log() / 2
        between = from_ratio(torch.lerp(log_ratio[low], log_ratio[high], t - low).exp()).float()
        return torch.where(t == low, table[low], between)
