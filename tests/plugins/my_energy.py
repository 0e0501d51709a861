"""An energy for guidance: images with more red than green and blue.

python sample.py plugins=my_energy.py +guidance.red._target_=my_energy.Red +guidance.red.scale=1
"""

import torch

from chrysalis.sampling.guidance.energies import Energy


class Red(Energy):
    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        red, green, blue = x0.unbind(1)
        return (green + blue - 2 * red).mean((1, 2))  # [B], the lower the better
