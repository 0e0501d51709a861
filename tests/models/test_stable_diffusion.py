"""Stable Diffusion with a few thousand weights: trained whole or by LoRA, sampled and guided as diffusers does."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY_RUN
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from model_folders import train_and_resume
from PIL import Image
from tiny import tiny_clip
from transformers import CLIPTextModel, CLIPTokenizer

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder
from chrysalis.models.stable_diffusion import StableDiffusion

SIZE = 16  # pixels: the autoencoder halves them once
HOW = ["scheduler=ddim", "steps=3", "n=1", "seed=5"]


@pytest.fixture(params=["epsilon", "v_prediction"])
def prediction(request) -> str:
    return request.param


@pytest.fixture
def pretrained(tmp_path, prediction):
    """1.x predicts epsilon, and 2.x v; here with zero terminal SNR too, for which v is needed."""
    clip = tiny_clip(tmp_path / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(clip, model_max_length=16)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=SIZE,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(3)
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    if prediction == "v_prediction":
        noise |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    ddim = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type=prediction, **noise)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(clip),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=ddim,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def captioned(tmp_path):
    at, rng = tmp_path / "photos", np.random.default_rng(0)
    at.mkdir()
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(at / f"{i:02}.png")
        (at / f"{i:02}.txt").write_text(["a red moth", "a blue moth"][i % 2])
    return ["data=folder", f"data.path={at}", f"data.image_size={SIZE}"]


def stock_sample(pipeline, prompt, scale, negative=None, **more):
    given = {"guidance_scale": scale, "negative_prompt": negative, "num_inference_steps": 3, "output_type": "np"}
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(prompt, generator=torch.Generator().manual_seed(5), **given, **more).images[0] * 255


def sampled(tmp_path, at):
    return np.asarray(Image.open(tmp_path / at / "seed_00005.png"), dtype=float)


def test_samples_are_those_of_the_stock_pipeline(run, tmp_path, pretrained, capfd):
    how = [f"model.pretrained={pretrained}", *HOW]
    pipeline = StableDiffusionPipeline.from_pretrained(pretrained)
    assert run("sample", *how, "text=a red moth", "out=plain") == 0
    assert np.abs(sampled(tmp_path, "plain") - stock_sample(pipeline, "a red moth", 1)).max() <= 1
    guided = ["text=a red moth", "guidance=cfg", "guidance.scale=3"]
    assert run("sample", *how, *guided, "out=guided") == 0
    assert np.abs(sampled(tmp_path, "guided") - stock_sample(pipeline, "a red moth", 3)).max() <= 1
    assert run("sample", *how, *guided, "guidance.negative.text=blue", "out=negative") == 0
    expected = stock_sample(pipeline, "a red moth", 3, "blue")
    assert np.abs(sampled(tmp_path, "negative") - expected).max() <= 1
    assert not np.array_equal(sampled(tmp_path, "negative"), sampled(tmp_path, "guided"))


def test_the_prompt_is_diffusers(pretrained, prediction):
    model = folder.load(str(pretrained))
    assert type(model.family) is StableDiffusion
    stock = StableDiffusionPipeline.from_pretrained(pretrained)
    denoiser = Denoiser(model.unet, model.scheduler, objective(prediction), model.conditioner, codec=model.family)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    states, _ = stock.encode_prompt(["a red moth", ""], "cpu", 1, do_classifier_free_guidance=False)
    with torch.no_grad():
        expected = stock.unet(x, t, encoder_hidden_states=states).sample
        assert torch.equal(denoiser(x, t, {"text": ("a red moth", None)}).out, expected)


def test_full_training(run, tmp_path, pretrained, captioned, tiny_features, capfd):
    on = [f"model.pretrained={pretrained}", *captioned]
    train_and_resume(run, *on, *tiny_features)
    at = tmp_path / "runs" / "a" / "pipeline"
    assert 'pipeline("a caption")' in (at / "README.md").read_text()
    pipeline = StableDiffusionPipeline.from_pretrained(at)
    before = UNet2DConditionModel.from_pretrained(pretrained / "unet").state_dict()
    assert any(not torch.equal(w, before[name]) for name, w in pipeline.unet.state_dict().items())
    encoder = CLIPTextModel.from_pretrained(pretrained / "text_encoder").state_dict()
    assert all(torch.equal(w, encoder[name]) for name, w in pipeline.text_encoder.state_dict().items())
    assert run("sample", "model.pretrained=runs/a", *HOW, "text=a blue moth", "out=s") == 0
    assert np.abs(sampled(tmp_path, "s") - stock_sample(pipeline, "a blue moth", 1)).max() <= 1


@pytest.mark.parametrize("prediction", ["epsilon"], indirect=True)
def test_in_a_process_of_its_own(tmp_path, pretrained, captioned):
    """As a user runs it: other tests import diffusers whole before train.py leaves out what it need not have."""
    lora = ["adapter=lora", "adapter.rank=2", "adapter.merge=false"]
    words = [f"model.pretrained={pretrained}", *captioned, *lora, *TINY_RUN, "name=a"]
    done = subprocess.run([sys.executable, str(REPOSITORY / "train.py"), *words], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    at = tmp_path / "runs" / "a" / "pipeline"
    StableDiffusionPipeline.from_pretrained(at).load_lora_weights(at / "lora")


@pytest.mark.parametrize("merge", [True, False])
def test_lora(run, tmp_path, pretrained, captioned, merge, capfd):
    how = ["adapter=lora", "adapter.rank=2", "adapter.alpha=4", f"adapter.merge={merge}", "optimizer.lr=1e-2"]
    assert run("train", f"model.pretrained={pretrained}", *captioned, *how, *TINY_RUN, "name=a") == 0
    at = tmp_path / "runs" / "a" / "pipeline"
    pipeline, base = StableDiffusionPipeline.from_pretrained(at), StableDiffusionPipeline.from_pretrained(pretrained)
    assert (at / "lora").is_dir() != merge
    if not merge:
        pipeline = base  # the LoRA is made for it
        pipeline.load_lora_weights(at / "lora")
    assert run("sample", "model.pretrained=runs/a", *HOW, "text=a blue moth", "out=s") == 0
    expected = stock_sample(pipeline, "a blue moth", 1)
    assert np.abs(sampled(tmp_path, "s") - expected).max() <= 1
    if not merge:
        pipeline.unload_lora_weights()
    plain = stock_sample(StableDiffusionPipeline.from_pretrained(pretrained), "a blue moth", 1)
    assert np.abs(plain - expected).max() > 1


def test_guidance_and_tasks(run, tmp_path, pretrained, captioned, capfd):
    how = [f"model.pretrained={pretrained}", *HOW, "text=a red moth"]
    terms = ["guidance=[cfg,brightness]", "guidance.cfg.scale=2", "guidance.brightness.scale=20"]
    assert run("sample", *how, *terms, "out=guided") == 0
    start = [*how, f"task.image={tmp_path / 'photos' / '00.png'}"]
    assert run("sample", *start, "task=img2img", "out=img2img") == 0
    assert run("sample", *start, "task=invert", "out=invert") == 0
    assert run("sample", *how[:-1], "text=[red,blue]", "out=rows") == 0


def test_own_samples_preserve_what_the_model_knows(run, tmp_path, pretrained, captioned, capfd):
    """Prior preservation (Ruiz et al. 2022): the base model's samples and their captions are training images too."""
    prior = ["text=[a moth,a bee]", "n=2", "steps=2", "out=photos/prior"]
    assert run("sample", f"model.pretrained={pretrained}", *prior) == 0
    lines = [json.loads(line) for line in (tmp_path / "photos" / "prior" / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a moth", "a moth", "a bee", "a bee"]
    assert all((tmp_path / "photos" / "prior" / line["file_name"]).is_file() for line in lines)
    own = tmp_path / "photos" / "own"
    own.mkdir()
    for file in (tmp_path / "photos").glob("*.*"):
        file.rename(own / file.name)
    texts = [{"file_name": file.name, "text": "a sks moth"} for file in sorted(own.glob("*.png"))]
    (own / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in texts))
    assert run("train", f"model.pretrained={pretrained}", *captioned, *TINY_RUN, "name=a") == 0
    err = capfd.readouterr().err
    assert "data: " in err
    n = int(re.search(r"(\d+) training", err)[1]) + int(re.search(r"(\d+) validation images of", err)[1])
    assert n == 20


def test_parts_that_do_not_belong_together(pretrained, run, capfd):
    config = json.loads((pretrained / "unet" / "config.json").read_text())
    (pretrained / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    assert run("sample", f"model.pretrained={pretrained}", "n=1") == 2
    assert "has a UNet of 9 channels and an autoencoder of 4 latent channels" in capfd.readouterr().err


def test_no_condition_is_new(run, pretrained, captioned, capfd):
    assert run("train", f"model.pretrained={pretrained}", *captioned, *TINY_RUN, "model.train=new") == 2
    assert "choose model.train=all" in capfd.readouterr().err


def test_a_folder_of_a_variant(run, tmp_path, pretrained):
    StableDiffusionPipeline.from_pretrained(pretrained).save_pretrained(tmp_path / "fp16", variant="fp16")
    how = [f"model.pretrained={tmp_path / 'fp16'}", "model.variant=fp16", *HOW, "text=a red moth"]
    assert run("sample", *how, "out=variant") == 0
    assert run("sample", f"model.pretrained={pretrained}", *HOW, "text=a red moth", "out=plain") == 0
    assert np.array_equal(sampled(tmp_path, "variant"), sampled(tmp_path, "plain"))
