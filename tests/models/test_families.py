"""Which folders a family reads, and what is said about the others."""

import pytest
import torch
from conftest import tiny_unet
from diffusers import VQModel
from model_folders import refusal, rewrite

from chrysalis.models import families, folder
from chrysalis.models.latent_unet import LatentUNet
from chrysalis.models.pixel_unet import PixelUNet


def test_a_latent_model_is_not_taken_for_one_on_pixels(model_folder):
    """CompVis/ldm-celebahq-256 has 3 latent channels; the autoencoder tells it apart, named or only lying there."""
    rewrite(model_folder / "model_index.json", _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"])
    assert "names vqvae in its model_index.json, and has no vqvae/config.json" in refusal(model_folder)
    (model_folder / "model_index.json").unlink()
    assert type(folder.load(str(model_folder)).family) is PixelUNet
    VQModel(block_out_channels=(8,), norm_num_groups=4).save_pretrained(model_folder / "vqvae")
    assert type(folder.load(str(model_folder)).family) is LatentUNet


@pytest.mark.parametrize(
    ("parts", "family"),
    [
        (["vae", "text_encoder", "tokenizer"], "Stable Diffusion (it has text_encoder, tokenizer, vae beside"),
        (["vae", "text_encoder", "text_encoder_2"], "Stable Diffusion XL"),
        (["bert", "vqvae"], "latent diffusion"),
        (["text_encoder", "tokenizer"], "a text-to-image model"),
        (["movq"], "Kandinsky"),
        (["x"], "a DDPMPipeline (it has x beside"),
    ],
)
def test_a_pipeline_of_another_family_is_named(model_folder, parts, family):
    rewrite(model_folder / "model_index.json", **{part: ["somewhere", "Some"] for part in parts})
    assert f"looks like {family}" in refusal(model_folder)
    rewrite(model_folder / "model_index.json", **{part: [None, None] for part in parts})
    assert folder.load(str(model_folder)).prediction == "epsilon"


def test_a_family_is_one_class_in_the_list(model_folder, monkeypatch):
    class TwoChannels(PixelUNet):
        accepts, channels = "one of two channels", 2

    assert type(folder.load(str(model_folder)).family) is PixelUNet
    tiny_unet(in_channels=2, out_channels=2).save_pretrained(model_folder / "unet")
    assert refusal(model_folder).endswith(
        "has 2 channels in and 2 out: choose a model such as google/ddpm-celebahq-256, a DDPM UNet2DModel on RGB "
        "pixels, a grey one, an RGBA one, a latent one with its autoencoder or a Stable Diffusion 1.x/2.x model."
    )
    monkeypatch.setattr(families, "FAMILIES", (PixelUNet, TwoChannels))
    assert type(folder.load(str(model_folder)).family) is TwoChannels
    rewrite(model_folder / "unet" / "config.json", in_channels=5)
    assert "a DDPM UNet2DModel on RGB pixels or one of two channels." in refusal(model_folder)


def test_pixels_are_encoded_and_decoded_without_loss():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = PixelUNet().encode(levels)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(PixelUNet().decode(x), levels)


def test_an_unknown_setting_of_the_unet_is_refused_unless_it_is_off(model_folder):
    rewrite(model_folder / "unet" / "config.json", new_gate=None)
    assert folder.load(str(model_folder)).prediction == "epsilon"
    rewrite(model_folder / "unet" / "config.json", new_gate="silu")
    assert "new_gate='silu' in config.json" in refusal(model_folder)
