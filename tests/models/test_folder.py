"""Models that are loaded from folders, exported, built from scratch and fitted to a size."""

import json
import shutil

import pytest
import torch
from conftest import tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from model_folders import refusal, rewrite
from safetensors.torch import load_file, save_file
from tiny_models import CELEBAHQ

from chrysalis.models import export, folder, scratch
from chrysalis.models.layout import WEIGHTS
from chrysalis.system.errors import UserError


@pytest.fixture(params=["nested", "flat"])
def celebahq(request, tmp_path):
    """Both hub layouts: save_pretrained's unet/ and scheduler/, and google/ddpm-*'s files at the root."""
    at = tmp_path / request.param
    unet, scheduler = tiny_unet(**CELEBAHQ), DDPMScheduler(variance_type="fixed_small")
    if request.param == "nested":
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(at)
    else:
        unet.save_pretrained(at)
        scheduler.save_pretrained(at)
    return at, unet


def test_both_layouts_load_with_their_own_config(celebahq):
    at, unet = celebahq
    model = folder.load(str(at))
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(model.unet(x, t).sample, unet.eval()(x, t).sample)
    assert model.unet.config.freq_shift == 1
    assert model.unet.config.flip_sin_to_cos is False
    assert model.scheduler.config.variance_type == "fixed_small"


@pytest.mark.parametrize("half", [False, True])
def test_an_export_reloads_in_stock_diffusers(tmp_path, half):
    unet, scheduler = tiny_unet().eval(), DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    export.save(tmp_path / "out", unet, scheduler, "a card", torch.zeros(3, 4, 4, dtype=torch.uint8), half)
    stock = DDPMPipeline.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False)
    for name, weight in stock.unet.state_dict().items():
        assert weight.dtype == torch.float32
        expected = unet.state_dict()[name]
        assert torch.equal(weight, expected.half().float() if half else expected)
    assert stock.scheduler.config.prediction_type == "v_prediction"
    assert (tmp_path / "out" / "README.md").read_text() == "a card"
    assert not list((tmp_path / "out").rglob("*.bin"))


def test_a_new_size_is_checked_and_written_to_the_config(model_folder):
    model = folder.load(str(model_folder))
    assert model.fit_to_size((16, 16)) is None
    assert "16 x 16" in model.fit_to_size((32, 24))
    assert model.unet.config.sample_size == (32, 24)
    with pytest.raises(UserError, match="16 or 18"):
        model.fit_to_size((17, 17))


def test_a_run_folder_stands_for_its_pipeline(model_folder, tmp_path):
    shutil.move(model_folder, tmp_path / "run" / "pipeline")
    assert folder.load(str(tmp_path / "run")).origin == str(tmp_path / "run" / "pipeline")


def break_folder(at, how):
    unet = at / "unet"
    weights = unet / WEIGHTS
    if how == "empty":
        shutil.rmtree(at)
        at.mkdir()
    elif how == "pickled":
        weights.rename(unet / "diffusion_pytorch_model.bin")
    elif how == "no weights":
        weights.unlink()
    elif how == "damaged weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "another model":
        config = json.loads((unet / "config.json").read_text())
        (unet / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKL"}))
    elif how == "no scheduler":
        shutil.rmtree(at / "scheduler")
    elif how == "mis-shaped":
        config = json.loads((unet / "config.json").read_text())
        (unet / "config.json").write_text(json.dumps({**config, "block_out_channels": [8, 24]}))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "give one with a config.json in unet/"),
        ("pickled", r"model\.bin is damaged, or holds more than tensors"),
        ("no weights", "no weights"),
        ("damaged weights", "could not be loaded"),
        ("another model", "AutoencoderKL"),
        ("no scheduler", "scheduler_config.json"),
        ("mis-shaped", "could not be loaded"),
    ],
)
def test_a_broken_model_folder_is_refused_by_name(model_folder, how, says):
    break_folder(model_folder, how)
    with pytest.raises(UserError, match=says) as error:
        folder.load(str(model_folder))
    assert str(model_folder) in str(error.value)


@pytest.mark.parametrize("name", ["./not/there", "plainword", "/a/b", "too/many/parts"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        folder.load(name)


def test_no_network_names_the_offline_default():
    with pytest.raises(UserError, match=r"no network.*assets/insects-128"):
        folder.load("google/ddpm-celebahq-256")


def test_scratch_builds_the_blocks_that_are_configured():
    model = scratch.build(32, block_out_channels=(8, 16), attention_levels=(1,))
    assert isinstance(model.unet, UNet2DModel)
    assert list(model.unet.config.down_block_types) == ["DownBlock2D", "AttnDownBlock2D"]
    assert list(model.unet.config.up_block_types) == ["AttnUpBlock2D", "UpBlock2D"]
    with pytest.raises(UserError, match="multiples of 8"):
        scratch.build(32, block_out_channels=(10, 20))


@pytest.fixture
def cached(model_folder, tmp_path, monkeypatch):
    """The model folder as me/model in the local cache of the hub."""
    at = tmp_path / "hub" / "models--me--model"
    (at / "refs").mkdir(parents=True)
    (at / "snapshots").mkdir()
    (at / "refs" / "main").write_text("0" * 40)
    shutil.move(model_folder, at / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return at / "snapshots" / ("0" * 40)


def test_a_model_of_the_hub_is_checked_as_a_local_one(cached):
    file, form = cached / "unet" / WEIGHTS, {"format": "pt"}
    weights = load_file(file)
    assert folder.load("me/model").origin == "me/model"
    save_file({name: w for name, w in weights.items() if name != "conv_in.bias"}, file, form)
    assert "conv_in.bias are missing" in refusal("me/model")
    save_file({**weights, "conv_in.bias": torch.full((8,), torch.nan)}, file, form)
    assert "conv_in.bias hold values that are not finite" in refusal("me/model")
    rewrite(cached / "scheduler" / "scheduler_config.json", _class_name="ScoreSdeVeScheduler")
    assert "no discrete DDPM" in refusal("me/model")
    rewrite(cached / "model_index.json", vqvae=["diffusers", "VQModel"])
    assert "names vqvae in its model_index.json" in refusal("me/model")
