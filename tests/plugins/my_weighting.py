"""A loss weighting: P2 (Choi et al. 2022, arXiv 2204.00227), 1 / (k + SNR)^gamma.

python train.py plugins=my_weighting.py weighting=uniform weighting._target_=my_weighting.P2 +weighting.gamma=0.5
"""

import torch

from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.objective import Objective


class P2:
    def __init__(self, k: float = 1.0, gamma: float = 1.0):
        self.k, self.gamma = k, gamma

    def __call__(self, t: torch.Tensor, noise: NoiseSchedule, objective: Objective) -> torch.Tensor:
        return (self.k + noise.snr(t)) ** -self.gamma  # [B]
