"""Model folders that are damaged, inconsistent or point outside are refused in one sentence."""

import json
import os
import struct

import pytest
import torch
from conftest import tiny_unet
from safetensors.torch import load_file, save_file

from chrysalis.models import folder
from chrysalis.system.errors import UserError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def change(place, **settings):
    place.write_text(json.dumps({**json.loads(place.read_text()), **settings}))


def reweighted(model_folder, change_them):
    weights = load_file(model_folder / WEIGHTS)
    change_them(weights)
    save_file(weights, model_folder / WEIGHTS, metadata={"format": "pt"})


BROKEN = {
    "missing weights": (lambda m: reweighted(m, lambda w: w.pop("conv_in.weight")), "conv_in.weight are missing"),
    "more weights": (lambda m: reweighted(m, lambda w: w.update(x=torch.ones(1))), "weights x belong to another kind"),
    "other shapes": (
        lambda m: reweighted(m, lambda w: w.update({"conv_in.bias": torch.ones(9)})),
        "could not be loaded",
    ),
    "no numbers": (
        lambda m: reweighted(m, lambda w: w["conv_in.bias"].fill_(float("nan"))),
        "conv_in.bias hold values that are not finite",
    ),
    "cut off": (lambda m: os.truncate(m / WEIGHTS, 5000), "could not be loaded"),
    "a header of 2^60 bytes": (lambda m: (m / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}"), "could not"),
    "weights that are empty": (lambda m: (m / WEIGHTS).write_bytes(b""), "could not be loaded"),
    "a list": (lambda m: (m / "unet/config.json").write_text("[]"), "config.json holds no settings"),
    "brackets": (lambda m: (m / "unet/config.json").write_text("[" * 100_000), "config.json is damaged"),
    "layers without end": (
        lambda m: change(m / "unet/config.json", layers_per_block=10**9),
        "layers_per_block=1000000",
    ),
    "negative channels": (lambda m: change(m / "unet/config.json", block_out_channels=[-8, 16]), "block_out_channels"),
    "channels of another": (
        lambda m: change(m / "unet/config.json", block_out_channels=[16000] * 2),
        "describes a UNet",
    ),
    "a size of words": (lambda m: change(m / "unet/config.json", sample_size="big"), "sample_size='big'"),
    "unknown blocks": (lambda m: change(m / "unet/config.json", down_block_types=["Nope", "DownBlock2D"]), "could not"),
    "an unknown class": (lambda m: change(m / "unet/config.json", _class_name="Nope"), "holds Nope"),
    "damaged noise": (lambda m: (m / "scheduler/scheduler_config.json").write_text("{"), "scheduler_config.json"),
    "steps without end": (
        lambda m: change(m / "scheduler/scheduler_config.json", num_train_timesteps=10**10),
        "num_train_timesteps",
    ),
    "noise that is none": (
        lambda m: change(m / "scheduler/scheduler_config.json", trained_betas=[float("nan")] * 1000),
        "not finite",
    ),
    "an unknown schedule": (lambda m: change(m / "scheduler/scheduler_config.json", beta_schedule="x"), "could not"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_model_folder_that_is_not_sound_is_refused(model_folder, how):
    breaks, says = BROKEN[how]
    breaks(model_folder)
    with pytest.raises(UserError) as raised:
        folder.load(str(model_folder))
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"model.pretrained={model_folder}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("diffusion_pytorch_model.bin", "give the diffusers folder that holds it.$"),
        ("model.ckpt", "save_pretrained write it as safetensors.$"),
    ],
)
def test_a_file_of_weights_is_no_model(model_folder, name, says):
    torch.save(tiny_unet().state_dict(), model_folder / "unet" / name)
    with pytest.raises(UserError, match=f"is a file.*{says}"):
        folder.load(str(model_folder / "unet" / name))


def test_an_index_that_points_outside_is_not_followed(model_folder):
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "../../elsewhere"]}
    (model_folder / "model_index.json").write_text(json.dumps(index))
    assert folder.load(str(model_folder)).unet is not None
    (model_folder / "model_index.json").write_text(json.dumps({**index, "x": ["os", "system"]}))
    with pytest.raises(UserError, match="x beside the UNet"):
        folder.load(str(model_folder))


def test_shards_that_lie_outside_are_refused(model_folder):
    os.replace(model_folder / WEIGHTS, model_folder / "outside.safetensors")
    shards = {"metadata": {}, "weight_map": dict.fromkeys(tiny_unet().state_dict(), "../outside.safetensors")}
    (model_folder / f"{WEIGHTS}.index.json").write_text(json.dumps(shards))
    with pytest.raises(UserError, match=r"model\.pretrained="):
        folder.load(str(model_folder))
