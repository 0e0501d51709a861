"""A tiny UNet with attention, trained with a LoRA for a few steps."""

import torch
from conftest import tiny_unet
from diffusers import UNet2DModel

from chrysalis.models.lora import LoRA

ATTENTION = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}

NO_ATTENTION = {"add_attention": False}

X, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 700])


def unet_of(**config) -> UNet2DModel:
    return tiny_unet(attention_head_dim=4, **{**ATTENTION, **config}).eval()


def output(unet, bf16: bool = False) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return unet(X, T, return_dict=False)[0]


def state(unet) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in unet.state_dict().items()}


def assert_same(state, other):
    assert list(state) == list(other)
    assert all(torch.equal(weight, other[name]) and weight.dtype == other[name].dtype for name, weight in state.items())


def train(unet, steps: int = 3, bf16: bool = False) -> UNet2DModel:
    learnt = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-2)
    unet.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = unet(X, T, return_dict=False)[0].float().square().mean()
        loss.backward()
        optimizer.step()
    return unet.eval()


def trained(**lora) -> UNet2DModel:
    return train(LoRA(**{"rank": 2, "alpha": 6.0, **lora}).inject(unet_of()))
