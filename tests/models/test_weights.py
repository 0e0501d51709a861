"""The files of weights in a model folder: EMA, variants, pickled ones and pointers."""

import shutil

import pytest
import torch
from conftest import tiny_unet
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from model_folders import Harm, refusal
from safetensors.torch import load_file, save_file

from chrysalis.models import folder
from chrysalis.models.layout import WEIGHTS

FP16 = "diffusion_pytorch_model.fp16.safetensors"

BIN = "diffusion_pytorch_model.bin"


def test_ema_weights_of_diffusers_training_scripts_are_loaded_on_request(model_folder, capsys):
    unet = tiny_unet(5)
    EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config).save_pretrained(
        model_folder / "unet_ema"
    )
    ema = folder.load(str(model_folder), subfolder="unet_ema")
    theirs = UNet2DModel.from_pretrained(model_folder / "unet_ema").state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ema.unet.state_dict().items())
    capsys.readouterr()
    folder.load(str(model_folder))
    assert "model.subfolder=unet_ema" in capsys.readouterr().err
    # checkpoint-N of these scripts has no scheduler of its own
    (model_folder / "checkpoint-5").mkdir()
    shutil.copytree(model_folder / "unet_ema", model_folder / "checkpoint-5" / "unet_ema")
    says = refusal(model_folder / "checkpoint-5", subfolder="unet_ema")
    assert f"Give {model_folder} instead, with model.subfolder=checkpoint-5/unet_ema" in says
    assert folder.load(str(model_folder), subfolder="checkpoint-5/unet_ema").prediction == "epsilon"
    shutil.rmtree(model_folder / "unet")
    assert "model.subfolder=unet_ema" in refusal(model_folder)
    assert "model.subfolder=ema has no config.json" in refusal(model_folder, subfolder="ema")


def test_a_variant_is_loaded_on_request(model_folder, capsys):
    unet = tiny_unet(5)
    shutil.rmtree(model_folder / "unet")
    unet.half().save_pretrained(model_folder / "unet", variant="fp16")
    assert "no bf16 weights" in refusal(model_folder, variant="bf16")
    for asked in ("fp16", None):  # None: it is the only one
        loaded = folder.load(str(model_folder), variant=asked).unet.state_dict()
        assert all(torch.equal(weight, unet.state_dict()[name].float()) for name, weight in loaded.items())
        assert ("has only fp16 weights, which are loaded" in capsys.readouterr().err) == (asked is None)
    shutil.copy(model_folder / "unet" / FP16, model_folder / "unet" / FP16.replace("fp16", "bf16"))
    assert "no plain weights" in (says := refusal(model_folder))
    assert "use model.variant=bf16 or model.variant=fp16" in says


def as_in_the_first_diffusers(state: dict) -> dict:
    """The names that attention had in the .bin files of google/ddpm-*."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        state = {key.replace(f"attentions.0.{new}", f"attentions.0.{name}"): w for key, w in state.items()}
    return state


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_file_is_read_by_the_weights_only_loader(model_folder, zipped):
    file = model_folder / "unet" / WEIGHTS
    weights = load_file(file)
    file.unlink()
    old = as_in_the_first_diffusers(weights)
    assert old.keys() != weights.keys()
    torch.save(old, model_folder / "unet" / BIN, _use_new_zipfile_serialization=zipped)
    loaded = folder.load(str(model_folder)).unet.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(weight, loaded[name]) for name, weight in weights.items())
    torch.save({**old, "conv_in.bias": torch.full((8,), torch.nan)}, model_folder / "unet" / BIN)
    assert "conv_in.bias hold values that are not finite" in refusal(model_folder)
    save_file({**weights, "conv_in.bias": torch.ones(8)}, file, {"format": "pt"})  # safetensors take precedence
    assert folder.load(str(model_folder)).unet.conv_in.bias.tolist() == [1.0] * 8


def test_no_code_in_a_bin_file_is_run(model_folder, tmp_path):
    file = model_folder / "unet" / WEIGHTS
    torch.save({**load_file(file), "more": Harm(tmp_path / "harm")}, model_folder / "unet" / BIN)
    file.unlink()
    assert "holds more than tensors, and no code in it is run" in refusal(model_folder)
    assert not (tmp_path / "harm").exists()
    torch.load(model_folder / "unet" / BIN, weights_only=False)  # which a plain load runs
    assert (tmp_path / "harm").is_dir()


def test_a_git_lfs_pointer_says_how_to_fetch_the_weights(model_folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14\n"
    (model_folder / "unet" / WEIGHTS).write_text(pointer)
    assert "run `git lfs pull`" in refusal(model_folder)
