"""Group normalisation that stays in bfloat16 under autocast on a GPU, as it does on a CPU."""

import torch
from torch import nn
from torch.nn import functional as F


class GroupNormAsGiven(nn.GroupNorm):
    """nn.GroupNorm in the precision of its input, whatever autocast would make of it.

    CUDA's autocast computes it in float32 and leaves the result so; the SiLU behind it follows, and half of what a
    UNet keeps for its backward pass is then twice as large. Its kernel sums in float32 in any case, and CPU's autocast
    leaves it alone.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def normalise_as_given(module: nn.Module) -> None:
    """Turn every group normalisation of a module into the above, in place; weights and their names stay."""
    for part in module.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = GroupNormAsGiven
