"""Which weights are trained."""

import pytest
import torch
from conftest import tiny_unet
from diffusers import DDPMScheduler
from tiny_models import attached_conditioner, conditional_batch

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models.freezing import freeze
from chrysalis.models.lora import LoRA
from chrysalis.system.errors import UserError


def changed(train, names, adapter=None, steps=3):
    """Names of the weights, of the UNet and the conditioner, that some AdamW steps changed."""
    unet = tiny_unet()
    conditioner = attached_conditioner(unet, names) if names else None
    if adapter:
        adapter.inject(unet)
    freeze(unet, conditioner, train)
    denoiser = Denoiser(unet, DDPMScheduler(), objective("epsilon"), conditioner, 0.0)
    before = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        denoiser.loss(conditional_batch(8)).value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, p in denoiser.named_parameters() if not torch.equal(p, before[name])}


def test_only_the_chosen_weights_are_trained():
    new = changed("new", ("label", "mask"))
    assert all(name.startswith("conditioner.") for name in new)
    assert {
        "conditioner.conv_in",
        "conditioner.embeddings.label.out.weight",
        "conditioner.embeddings.label.table.weight",
    } <= new
    attention = changed("attention", ("label",))
    assert {n.split(".")[1] for n in attention if n.startswith("unet.")} == {"mid_block"}
    both = changed(["up", "time"], ())
    assert {n.split(".")[1] for n in both} == {"up_blocks", "time_embedding", "down_blocks", "mid_block"}
    assert all("time_emb" in n for n in both if "up_blocks" not in n)
    lora = changed("all", ("mask",), LoRA(rank=2))
    assert all(".lora_" in n or n == "conditioner.conv_in" for n in lora)
    assert any(".lora_A" in n for n in lora)
    beside = changed("all", ("mask",), LoRA(rank=2, targets=["conv_in"]))
    assert beside == {"conditioner.conv_in", *(f"unet.conv_in.lora_{m}.default.weight" for m in "AB")}


def test_impossible_choices_are_refused():
    with pytest.raises(UserError, match=r"model.train=bees is unknown: choose all, new, attention"):
        changed("bees", ())
    with pytest.raises(UserError, match=r"model.train=new: nothing is new without a condition"):
        changed("new", ())
    with pytest.raises(UserError, match=r"model.train=up does not apply to a LoRA"):
        changed("up", (), LoRA(rank=2))
    bare = tiny_unet(add_attention=False)
    with pytest.raises(UserError, match="has no such weights"):
        freeze(bare, None, "attention")
