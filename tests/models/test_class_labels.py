"""Class-conditional UNets of diffusers: loaded with their labels, trained on these and others, sampled and guided."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, tiny_unet
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, UNet2DModel
from PIL import Image

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder


@pytest.fixture(params=["table", "timestep"])
def pretrained(tmp_path, request):
    """A UNet of four classes; their names are in model_index.json, as in that of DiT."""
    kind = {"num_class_embeds": 4} if request.param == "table" else {"class_embed_type": "timestep"}
    at = tmp_path / "base"
    tiny_unet(**kind).save_pretrained(at / "unet")
    DDPMScheduler().save_pretrained(at / "scheduler")
    names = {str(i): name for i, name in enumerate(["ant", "bee", "fly", "wasp"])}
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "id2label": names}
    (at / "model_index.json").write_text(json.dumps(index))
    return at


@pytest.fixture
def labelled(tmp_path):
    """make(names): a folder of images for each label."""

    def make(*names):
        rng = np.random.default_rng(0)
        for name in names:
            (tmp_path / "data" / name).mkdir(parents=True)
            for i in range(8):
                image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
                image.save(tmp_path / "data" / name / f"{i}.png")
        return ["data=folder", f"data.path={tmp_path / 'data'}", "data.image_size=16"]

    return make


def test_the_label_is_diffusers_class_label(pretrained):
    stock, model = UNet2DModel.from_pretrained(pretrained / "unet").eval(), folder.load(str(pretrained))
    assert model.conditioner.parts["label"].names == ["ant", "bee", "fly", "wasp"]
    denoiser = Denoiser(model.unet.eval(), model.scheduler, objective("epsilon"), model.conditioner)
    x, t = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 300, 500, 900])
    labels = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        expected = stock(x, t, class_labels=labels).sample
        assert torch.equal(denoiser(x, t, {"label": labels}).out, expected)


def test_training_export_samples_and_guidance(run, tmp_path, pretrained, labelled, capfd):
    stock = UNet2DModel.from_pretrained(pretrained / "unet").eval()
    how = ["scheduler=ddim", "steps=3", "n=1", "seed=5"]
    assert run("sample", f"model.pretrained={pretrained}", "label=fly", *how, "out=before") == 0
    scheduler = DDIMScheduler.from_config(DDPMScheduler().config)
    scheduler.set_timesteps(3)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(stock(x, t, class_labels=torch.tensor([2])).sample, t, x).prev_sample
    expected = ((x / 2 + 0.5).clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
    ours = np.asarray(Image.open(tmp_path / "before" / "seed_00005.png"), dtype=float)
    assert np.abs(ours - expected).max() <= 1

    on = [f"model.pretrained={pretrained}", *labelled("bee", "wasp")]
    assert run("train", *on, *TINY_RUN, "name=a") == 0
    assert run("train", "resume=runs/a", "trainer.max_steps=6") == 0
    assert run("sample", "model.pretrained=runs/a", "label=bee", "guidance=cfg", "guidance.scale=2", *how) == 0
    at = str(tmp_path / "runs" / "a" / "pipeline")
    pipeline = DiffusionPipeline.from_pretrained(at, custom_pipeline=at, trust_remote_code=True)
    given = {"label": "bee", "guidance_scale": 2, "num_inference_steps": 3, "output_type": "np"}
    expected = pipeline(generator=torch.Generator().manual_seed(5), **given).images[0] * 255
    (file,) = (tmp_path / "samples").rglob("seed_00005.png")
    assert np.abs(np.asarray(Image.open(file), dtype=float) - expected).max() <= 1


def test_other_labels_are_added(run, tmp_path, pretrained, labelled, capfd):
    on = [f"model.pretrained={pretrained}", *labelled("moth", "bee")]
    assert run("train", *on, *TINY_RUN, "name=a") == 2
    assert "labels that the model does not know (moth)" in capfd.readouterr().err
    assert run("train", *on, *TINY_RUN, "condition=label", "condition.label.add=true", "name=a") == 0
    assert run("train", "resume=runs/a", "trainer.max_steps=6") == 0
    model = folder.load("runs/a")
    assert model.conditioner.parts["label"].names == ["ant", "bee", "fly", "wasp", "moth"]
    assert run("sample", "model.pretrained=runs/a", "label=moth", "steps=2", "n=1") == 0


def test_a_new_set_of_labels_is_added_by_itself(run, pretrained, labelled, capfd):
    assert run("train", f"model.pretrained={pretrained}", *labelled("moth", "owl"), *TINY_RUN, "name=a") == 0
    assert "the model gets 2 new labels: moth, owl" in capfd.readouterr().err
    assert folder.load("runs/a").conditioner.parts["label"].names[4:] == ["moth", "owl"]


def test_folders_without_names(tmp_path):
    DDPMScheduler().save_pretrained(tmp_path)
    tiny_unet(num_class_embeds=3).save_pretrained(tmp_path)
    assert folder.load(str(tmp_path)).conditioner.parts["label"].names == ["0", "1", "2"]
    tiny_unet(class_embed_type="identity").save_pretrained(tmp_path)
    model = folder.load(str(tmp_path))
    stock = UNet2DModel.from_pretrained(tmp_path).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 300])
    with torch.no_grad():
        expected = stock(x, t, class_labels=torch.zeros(2, stock.time_embedding.linear_2.out_features)).sample
        assert model.conditioner is None
        assert torch.equal(model.unet.eval()(x, t).sample, expected)
