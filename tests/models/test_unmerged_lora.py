"""Sampling from a run whose LoRA was not merged, against W + (alpha / rank) B A computed here."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_RUN
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from chrysalis.models import folder, second_model
from chrysalis.system.errors import UserError

pytestmark = pytest.mark.proof  # trains, and samples a dozen times

RUN = [*TINY_RUN, "data.image_size=16", "data.n=30", "adapter=lora", "adapter.rank=2", "adapter.alpha=4"]
RUN += ["optimizer.lr=0.05", "trainer.precision=32-true", "callbacks.checkpoint.every_n_train_steps=2"]
RUN += ["callbacks.checkpoint.keep=all"]  # previous.ckpt too
PREFIX = "base_model.model."


def image(path):
    return np.asarray(Image.open(path)).astype(int)


def merged_by_hand(pipeline, to, lora, name_of):
    """Write a stock folder of the exported weights with these A and B merged into them."""
    unet = UNet2DModel.from_pretrained(pipeline / "unet")
    config, own = json.loads((pipeline / "lora" / "adapter_config.json").read_text()), dict(unet.named_parameters())
    with torch.no_grad():
        for name, b in lora.items():
            if ".lora_B." in name:
                w = own[name_of(name)]
                a = lora[name.replace("lora_B", "lora_A")]
                w += config["lora_alpha"] / config["r"] * (b.flatten(1) @ a.flatten(1)).view(w.shape)
    left_out = shutil.ignore_patterns("lora", "pipeline.py", "model_index.json", "unet")
    shutil.copytree(pipeline, to, ignore=left_out)
    unet.save_pretrained(to / "unet")
    return to


def test_it_samples_as_its_merged_weights(run, model_folder, tmp_path):
    assert run("train", *RUN, "adapter.merge=false", f"model.pretrained={model_folder}", "name=apart") == 0
    made, file = tmp_path / "runs" / "apart" / "pipeline", tmp_path / "runs" / "apart" / "checkpoints" / "previous.ckpt"
    lora = load_file(made / "lora" / "adapter_model.safetensors")
    merged = merged_by_hand(
        made, tmp_path / "merged", lora, lambda name: name.removeprefix(PREFIX).replace(".lora_B", "")
    )
    saved = torch.load(file, weights_only=True)["callbacks"]
    (early,) = (state["ema_weights"] for state in saved.values() if "ema_weights" in state)
    before = merged_by_hand(
        made,
        tmp_path / "before",
        early,
        lambda name: name.removeprefix("unet.").removeprefix("denoiser.unet.").replace(".lora_B.default", ""),
    )
    auto = ["guidance=autoguidance", "guidance.autoguidance.scale=2"]
    blend = ["task=blend", "task.ratios=[0,0.5,1]", f"task.base={model_folder}"]
    domain = ["guidance=domain", "guidance.domain.scale=2", f"guidance.domain.base={model_folder}"]
    pairs = [(how, how) for how in ([], blend, domain)]
    pairs += [tuple([*auto, f"guidance.autoguidance.checkpoint={other}"] for other in (file, before))]
    for k, (of_run, by_hand) in enumerate(pairs):
        for name, model, how in (("a", made.parent, of_run), ("b", merged, by_hand)):
            assert run("sample", f"model.pretrained={model}", "steps=3", "n=2", f"out={name}{k}", *how) == 0
        names = [p.name for p in (tmp_path / f"a{k}").glob("*_0*.png")]
        assert len(names) >= 2
        for name in names:
            assert np.abs(image(tmp_path / f"a{k}" / name) - image(tmp_path / f"b{k}" / name)).max() <= 1, (k, name)
    with pytest.raises(UserError, match=r"x=.*previous.ckpt holds a LoRA apart from the weights, and .* merged"):
        second_model.from_checkpoint(folder.load(str(merged)), str(file), "x")
