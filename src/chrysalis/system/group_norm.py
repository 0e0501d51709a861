"""Group normalization that stays in bfloat16 under autocast on a GPU, as it does on a CPU."""

import torch
from torch import nn
from torch.nn import functional as F


class GroupNormAsGiven(nn.GroupNorm):
    """nn.GroupNorm in the precision of its input, whatever autocast chooses.

    CUDA's autocast computes it in float32 and returns float32; the SiLU after it follows, and half of the activations
    that a UNet keeps for its backward pass are then twice as large. The kernel sums in float32 in any case, and the
    CPU's autocast leaves it alone.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def normalise_as_given(module: nn.Module) -> None:
    """Turn every nn.GroupNorm of a module into GroupNormAsGiven, in place; weights and their names stay."""
    for part in module.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = GroupNormAsGiven
