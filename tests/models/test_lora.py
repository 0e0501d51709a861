"""LoRA beside the layers of a UNet, merged into them, and refused."""

import functools

import pytest
import torch
from conftest import REPOSITORY, tiny_unet
from diffusers import UNet2DModel
from hydra.utils import instantiate
from lora_models import NO_ATTENTION, assert_same, output, state, train, trained, unet_of
from omegaconf import OmegaConf

from chrysalis.models import lora
from chrysalis.models.lora import LoRA
from chrysalis.system.errors import UserError


@pytest.mark.parametrize("middle", [{}, NO_ATTENTION])
@pytest.mark.parametrize("unet_kind", [unet_of, tiny_unet])
def test_a_new_lora_changes_no_bit_of_the_output(unet_kind, middle):
    unet = unet_kind(**middle).eval()
    before = output(unet)
    assert not lora.injected(unet)
    assert LoRA().inject(unet) is unet
    assert lora.injected(unet)
    assert not any(module.training for module in unet.modules())
    assert torch.equal(output(unet), before)


def test_a_unet_without_any_attention_has_lora_on_its_convolutions():
    unet = LoRA().inject(tiny_unet(**NO_ATTENTION))
    layers = {name.split(".lora_A")[0].split(".")[-1] for name in unet.state_dict() if "lora_A" in name}
    assert layers == {"conv1", "conv2", "time_emb_proj"}


def test_only_the_lora_is_trained_and_the_base_stays_to_the_bit():
    unet = unet_of()
    before = state(unet)
    LoRA(rank=2).inject(unet)
    learn = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert learn == {name for name in unet.state_dict() if ".lora_A." in name or ".lora_B." in name}
    start = state(unet)
    train(unet)
    after = state(unet)
    assert all(torch.equal(after[name], start[name]) == (name not in learn) for name in start)
    assert_same(lora.plain(unet, merge=False).state_dict(), before)


def test_merged_weights_are_w_plus_scaled_b_a():
    unet = trained()
    merged, weights = lora.plain(unet).state_dict(), unet.state_dict()
    for layer in ("mid_block.attentions.0.to_q", "mid_block.attentions.0.to_out.0", "down_blocks.0.resnets.0.conv1"):
        w, a, b = (
            weights[f"{layer}.{part}.weight"].double() for part in ("base_layer", "lora_A.default", "lora_B.default")
        )
        delta = torch.einsum("or,ri->oi", b, a) if w.ndim == 2 else torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
        assert delta.abs().max() > 1e-3
        torch.testing.assert_close(merged[f"{layer}.weight"].double(), w + 6 / 2 * delta, rtol=2**-23, atol=0)
        assert torch.equal(merged[f"{layer}.bias"], weights[f"{layer}.base_layer.bias"])


def test_merged_weights_give_the_same_outputs_under_stock_names():
    unet = trained()
    plain = lora.plain(unet)
    assert type(plain) is UNet2DModel
    assert list(plain.state_dict()) == list(unet_of().state_dict())
    assert not lora.injected(plain)
    assert all(p.requires_grad for p in plain.parameters())
    assert {**plain.config, "_use_default_values": 0} == {**unet.config, "_use_default_values": 0}
    assert (output(unet) - output(unet_of())).abs().max() > 1e-2
    torch.testing.assert_close(output(plain), output(unet), rtol=0, atol=1e-5)


@pytest.mark.parametrize("copied", [lora.plain, functools.partial(lora.plain, merge=False)])
def test_copies_keep_mode_and_dtype_and_leave_the_original_and_the_seed_alone(copied):
    unet = trained().to(torch.bfloat16).train()
    before, rng = state(unet), torch.get_rng_state()
    copy = copied(unet)
    assert torch.equal(torch.get_rng_state(), rng)
    assert_same(unet.state_dict(), before)
    assert all(module.training for module in copy.modules())
    assert copy.dtype == torch.bfloat16
    with torch.no_grad():
        for p in copy.parameters():
            p.zero_()
    assert_same(unet.state_dict(), before)


@pytest.mark.parametrize("copied", [lora.plain, functools.partial(lora.plain, merge=False)])
def test_without_an_adapter_copies_equal_the_unet_to_the_bit(copied):
    unet = unet_of()
    assert_same(copied(unet).state_dict(), unet.state_dict())
    assert torch.equal(output(copied(unet)), output(unet))


@pytest.mark.parametrize("copied", [lora.plain, functools.partial(lora.plain, merge=False)])
def test_hooks_are_not_copied(copied):
    class Owner(torch.nn.Module):
        def hook(self, module, arguments, result):
            return result + 1

        def __deepcopy__(self, memo):
            raise AssertionError("the owner of a hook was copied")

    unet = trained()
    expected = output(copied(unet))
    unet.mid_block.register_forward_hook(Owner().hook)
    unet.down_blocks[0].resnets[0].conv1.register_forward_hook(Owner().hook)
    copy = copied(unet)
    assert not any(module._forward_hooks for module in copy.modules())
    assert torch.equal(output(copy), expected)


def test_a_wider_first_layer_of_another_type_is_read_by_its_weights():
    class Wider(torch.nn.Conv2d):
        pass

    unet = unet_of()
    unet.conv_in = Wider(5, 8, 3, padding=1)
    unet.register_to_config(in_channels=5)
    before = state(unet)
    LoRA(rank=2).inject(unet)
    copy = lora.plain(unet, merge=False)
    assert type(copy.conv_in) is torch.nn.Conv2d
    assert copy.conv_in.in_channels == 5
    assert_same(copy.state_dict(), before)


def test_it_is_trained_under_bf16_autocast():
    unet = LoRA(rank=2).inject(unet_of())
    assert torch.equal(output(unet, bf16=True), output(unet_of(), bf16=True))
    start = state(unet)
    train(unet, bf16=True)
    after = state(unet)
    assert all(p.dtype == torch.float32 for p in unet.parameters())
    assert all(torch.equal(after[name], start[name]) == (".lora_" not in name) for name in start)
    torch.testing.assert_close(output(unet, bf16=True).float(), output(unet), rtol=0.05, atol=0.05)


@pytest.mark.proof  # compiles
def test_it_is_trained_compiled():
    small = {"block_out_channels": (8,), "down_block_types": ("AttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet, compiled = (LoRA(rank=2).inject(unet_of(**small)) for _ in range(2))
    compiled.load_state_dict(unet.state_dict())
    compiled.compile(backend="aot_eager", fullgraph=True)
    train(compiled, steps=2)
    train(unet, steps=2)
    for name, weight in unet.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    assert list(lora.plain(compiled).state_dict()) == list(unet_of(**small).state_dict())


KINDS = "conv, conv1, conv2, conv_in, conv_out, conv_shortcut, linear_1, linear_2, time_emb_proj"


@pytest.mark.parametrize("targets", [["conv1", "to_qq"], ["norm1"], ["attentions"], ["to_q"]])
def test_targets_that_name_no_layer_are_refused_with_the_known_names(targets):
    unet = tiny_unet(**NO_ATTENTION)
    before = output(unet)
    with pytest.raises(UserError) as error:
        LoRA(targets=targets).inject(unet)
    assert str(error.value) == (
        f"adapter.targets: no Linear or Conv2d layer is named {targets[-1]}: choose from {KINDS}."
    )
    assert torch.equal(output(unet), before)
    assert not lora.injected(unet)


def test_one_layer_can_be_named_in_full():
    unet = LoRA(targets=["mid_block.resnets.0.conv1"]).inject(tiny_unet())
    learn = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert learn == {f"mid_block.resnets.0.conv1.lora_{m}.default.weight" for m in "AB"}


def test_a_second_lora_is_refused():
    with pytest.raises(UserError, match=r"already has a LoRA\. Use adapter=none"):
        LoRA().inject(trained())


def test_the_leaves_of_the_group():
    leaf = {file.stem: OmegaConf.load(file) for file in (REPOSITORY / "conf" / "adapter").glob("*.yaml")}
    assert set(leaf) == {"none", "lora"}
    assert instantiate(leaf["none"]) is None
    assert vars(instantiate(leaf["lora"])) == vars(LoRA())
    unet = instantiate(leaf["lora"], targets=["conv2"], rank=3, alpha=None).inject(unet_of())
    assert unet.peft_config["default"].lora_alpha == 3
