import json
import os
import shutil

import pytest
import torch
from conftest import tiny_unet
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, HeunDiscreteScheduler, UNet2DModel, VQModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from tiny_models import CELEBAHQ

from chrysalis.models import checks, export, families, folder, scratch
from chrysalis.models.pixel_unet import PixelUNet
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
    weights = unet / checks.WEIGHTS
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
        ("empty", "no readable config.json"),
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
    with pytest.raises(UserError, match=r"no network.*assets/moths-64"):
        folder.load("google/ddpm-celebahq-256")


def test_scratch_builds_the_blocks_that_are_configured():
    model = scratch.build(32, block_out_channels=(8, 16), attention_levels=(1,))
    assert isinstance(model.unet, UNet2DModel)
    assert list(model.unet.config.down_block_types) == ["DownBlock2D", "AttnDownBlock2D"]
    assert list(model.unet.config.up_block_types) == ["AttnUpBlock2D", "UpBlock2D"]
    with pytest.raises(UserError, match="multiples of 8"):
        scratch.build(32, block_out_channels=(10, 20))


def rewrite(file, **settings):
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def refusal(at, **how) -> str:
    with pytest.raises(UserError) as error:
        folder.load(str(at), **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_latent_model_is_not_taken_for_one_on_pixels(model_folder):
    """CompVis/ldm-celebahq-256 has 3 latent channels; the autoencoder tells it apart, named or only lying there."""
    rewrite(model_folder / "model_index.json", _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"])
    assert "looks like latent diffusion (it has vqvae beside the UNet)" in refusal(model_folder)
    (model_folder / "model_index.json").unlink()
    assert folder.load(str(model_folder)).prediction == "epsilon"
    VQModel(block_out_channels=(8,), norm_num_groups=4).save_pretrained(model_folder / "vqvae")
    assert "looks like latent diffusion" in refusal(model_folder)


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


def test_a_second_family_is_one_class_in_the_list(model_folder, monkeypatch):
    class GreyUNet(PixelUNet):
        accepts = "a grey UNet"

        @staticmethod
        def reads(layout):
            return layout.unet["in_channels"] == 1

        def encode(self, images):
            return super().encode(images.float().mean(1, keepdim=True))

    assert type(folder.load(str(model_folder)).family) is PixelUNet
    tiny_unet(in_channels=1, out_channels=1).save_pretrained(model_folder / "unet")
    assert refusal(model_folder).endswith(
        "has 1 channels in and 1 out: choose a DDPM UNet2DModel on RGB pixels, such as google/ddpm-celebahq-256."
    )
    monkeypatch.setattr(families, "FAMILIES", (PixelUNet, GreyUNet))
    model = folder.load(str(model_folder))
    assert model.family.encode(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)).shape == (1, 1, 16, 16)
    rewrite(model_folder / "unet" / "config.json", in_channels=2)
    assert "choose a DDPM UNet2DModel on RGB pixels or a grey UNet, such as" in refusal(model_folder)


def test_pixels_are_encoded_and_decoded_without_loss():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = PixelUNet().encode(levels)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(PixelUNet().decode(x), levels)


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


FP16 = "diffusion_pytorch_model.fp16.safetensors"
BIN = "diffusion_pytorch_model.bin"


def as_in_the_first_diffusers(state: dict) -> dict:
    """The names that attention had in the .bin files of google/ddpm-*."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        state = {key.replace(f"attentions.0.{new}", f"attentions.0.{name}"): w for key, w in state.items()}
    return state


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_file_is_read_by_the_weights_only_loader(model_folder, zipped):
    file = model_folder / "unet" / checks.WEIGHTS
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


class Harm:
    """An object whose unpickling makes a folder."""

    def __init__(self, at):
        self.at = str(at)

    def __reduce__(self):
        return os.mkdir, (self.at,)


def test_no_code_in_a_bin_file_is_run(model_folder, tmp_path):
    file = model_folder / "unet" / checks.WEIGHTS
    torch.save({**load_file(file), "more": Harm(tmp_path / "harm")}, model_folder / "unet" / BIN)
    file.unlink()
    assert "holds more than tensors, and no code in it is run" in refusal(model_folder)
    assert not (tmp_path / "harm").exists()
    torch.load(model_folder / "unet" / BIN, weights_only=False)  # which a plain load runs
    assert (tmp_path / "harm").is_dir()


def test_a_git_lfs_pointer_says_how_to_fetch_the_weights(model_folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14\n"
    (model_folder / "unet" / checks.WEIGHTS).write_text(pointer)
    assert "run `git lfs pull`" in refusal(model_folder)


def test_predict_epsilon_of_old_configurations_is_translated(model_folder):
    file = model_folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text())
    del settings["prediction_type"]
    for predicts_eps, prediction in ((False, "sample"), (True, "epsilon")):
        file.write_text(json.dumps({**settings, "predict_epsilon": predicts_eps}))
        assert folder.load(str(model_folder)).prediction == prediction
    rewrite(file, predict_epsilon=False, prediction_type="epsilon")
    assert "predict_epsilon=false and prediction_type=epsilon" in refusal(model_folder)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "trained with ScoreSdeVeScheduler, which has no discrete DDPM"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, "CogVideoXDDIMScheduler, whose noise levels are not those of DDPM"),
        ({"_class_name": "NopeScheduler"}, "trained with NopeScheduler"),
        ({"prediction_type": "flow_prediction"}, "prediction_type=flow_prediction"),
        ({"shift_snr": 3.0}, "has shift_snr=3.0 in scheduler_config.json"),
    ],
)
def test_a_schedule_that_is_not_ddpms_is_refused(model_folder, settings, says):
    rewrite(model_folder / "scheduler" / "scheduler_config.json", **settings)
    assert says in refusal(model_folder)


def test_an_unknown_setting_of_the_unet_is_refused_unless_it_is_off(model_folder):
    rewrite(model_folder / "unet" / "config.json", new_gate=None)
    assert folder.load(str(model_folder)).prediction == "epsilon"
    rewrite(model_folder / "unet" / "config.json", new_gate="silu")
    assert "new_gate='silu' in config.json" in refusal(model_folder)


@pytest.mark.parametrize("cls", [HeunDiscreteScheduler, DDIMScheduler])
def test_betas_left_out_are_those_of_the_schedulers_own_class(model_folder, cls):
    file = model_folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": cls.__name__}))
    own = cls.from_pretrained(model_folder / "scheduler")
    torch.testing.assert_close(folder.load(str(model_folder)).scheduler.alphas_cumprod, own.alphas_cumprod)


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
    file, form = cached / "unet" / checks.WEIGHTS, {"format": "pt"}
    weights = load_file(file)
    assert folder.load("me/model").origin == "me/model"
    save_file({name: w for name, w in weights.items() if name != "conv_in.bias"}, file, form)
    assert "conv_in.bias are missing" in refusal("me/model")
    save_file({**weights, "conv_in.bias": torch.full((8,), torch.nan)}, file, form)
    assert "conv_in.bias hold values that are not finite" in refusal("me/model")
    rewrite(cached / "scheduler" / "scheduler_config.json", _class_name="ScoreSdeVeScheduler")
    assert "no discrete DDPM" in refusal("me/model")
    rewrite(cached / "model_index.json", vqvae=["diffusers", "VQModel"])
    assert "latent diffusion" in refusal("me/model")
