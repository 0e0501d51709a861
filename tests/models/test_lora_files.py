"""LoRA folders, as Chrysalis, peft and diffusers read and write them."""

import functools
import json
import sys

import peft
import pytest
import torch
from conftest import tiny_unet
from diffusers import UNet2DModel
from lora_models import assert_same, output, trained, unet_of
from safetensors.torch import load_file

from chrysalis.models import lora
from chrysalis.models.lora import LoRA
from chrysalis.system.errors import UserError
from chrysalis.system.memory import align


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_saved_and_loaded_it_is_the_same_to_the_bit_and_trainable(tmp_path, dropout):
    unet = trained(dropout=dropout)
    lora.save(unet, tmp_path / "lora")
    assert {file.name for file in (tmp_path / "lora").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    fresh = unet_of()
    assert lora.load(fresh, tmp_path / "lora") is fresh
    assert torch.equal(output(fresh), output(unet))
    assert_same(fresh.state_dict(), unet.state_dict())
    learn = [[name for name, p in u.named_parameters() if p.requires_grad] for u in (fresh, unet)]
    assert learn[0] == learn[1]
    assert_same(lora.plain(fresh).state_dict(), lora.plain(unet).state_dict())


def test_stock_peft_alone_loads_the_folder(tmp_path):
    unet = trained()
    lora.save(unet, tmp_path)
    fresh = peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(str(tmp_path)), unet_of())
    result = peft.set_peft_model_state_dict(fresh, load_file(tmp_path / "adapter_model.safetensors"))
    assert not result.unexpected_keys
    assert torch.equal(output(fresh.eval()), output(unet))
    # torch multiplies a layer without bias otherwise, and rounds otherwise, when its weights take no gradients
    wrapped = peft.PeftModel.from_pretrained(unet_of(), str(tmp_path), is_trainable=True).eval()
    assert torch.equal(output(align(wrapped)), output(unet))


@pytest.mark.parametrize("copied", [lora.plain, functools.partial(lora.plain, merge=False)])
def test_stock_diffusers_loads_what_a_copy_saves(tmp_path, copied):
    copy = copied(trained())
    copy.save_pretrained(tmp_path)
    loaded, report = UNet2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_same(loaded.state_dict(), copy.state_dict())


def test_folders_that_hold_no_fitting_lora_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a LoRA folder"):
        lora.load(unet_of(), tmp_path)
    lora.save(trained(), tmp_path / "lora")
    for other in (unet_of(block_out_channels=(8, 24)), tiny_unet(), unet_of(layers_per_block=2)):
        with pytest.raises(UserError, match="is the LoRA of another UNet"):
            lora.load(other, tmp_path / "lora")
    dora = peft.LoraConfig(target_modules=["to_q"], use_dora=True)
    lora.save(peft.inject_adapter_in_model(dora, unet_of()), tmp_path / "dora")
    with pytest.raises(UserError, match="holds more than LoRA's A and B matrices"):
        lora.load(unet_of(), tmp_path / "dora")


def test_the_saved_settings_can_be_read(tmp_path):
    lora.save(trained(), tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["r"], saved["lora_alpha"]) == ("LORA", 2, 6.0)
    assert set(saved["target_modules"]) == set(lora.TARGETS)


def test_without_peft_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    for call in (lambda: LoRA().inject(unet_of()), lambda: lora.load(unet_of(), tmp_path)):
        with pytest.raises(UserError, match=r"^adapter=lora needs peft: pip install 'chrysalis\[lora\]'\.$"):
            call()
    unet = unet_of()
    assert_same(lora.plain(unet).state_dict(), unet.state_dict())
