"""The two baselines of `make bench`, each compared with its own steps written out."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from torchvision.transforms import functional as T

from benchmarks import diffusers_script, plain_loop
from chrysalis.data.synthetic.domains import draw

PLAIN_LOOP = REPOSITORY / "benchmarks" / "plain_loop.py"


@pytest.fixture
def twelve(tmp_path):
    (tmp_path / "twelve").mkdir()
    for i in range(12):
        Image.fromarray(draw("butterflies", i, size=32).image).save(tmp_path / "twelve" / f"{i:02d}.png")
    return tmp_path / "twelve"


def run_baseline(capsys, *arguments, program=plain_loop) -> dict:
    """Run a baseline; returns the record that it prints."""
    program.main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def randomly_mirrored(file) -> torch.Tensor:
    """Read float32 [3, 16, 16] in [-1, 1], mirrored with torch's global generator."""
    image = T.resize(Image.open(file).convert("RGB"), [16, 16])
    image = T.hflip(image) if torch.rand(1) < 0.5 else image
    return 2 * T.to_tensor(image) - 1


def shuffled(folder) -> torch.utils.data.DataLoader:
    """Batches of 4, shuffled by a DataLoader."""
    files = sorted(folder.iterdir())
    collate = lambda rows: torch.stack([randomly_mirrored(files[i]) for i in rows])  # noqa: E731
    return torch.utils.data.DataLoader(range(len(files)), 4, shuffle=True, collate_fn=collate)


def noised(x0, eps, t) -> torch.Tensor:
    a = DDPMScheduler().alphas_cumprod[t].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def test_the_plain_loop_trains_as_written_out(model_folder, twelve, capsys, tmp_path):
    """Images shuffled by a DataLoader and mirrored one by one, then noise, then timesteps, from one generator."""
    torch.manual_seed(3)
    unet, losses = UNet2DModel.from_pretrained(model_folder / "unet").train(), []
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    rows = shuffled(twelve)
    while len(losses) < 10:
        for x0 in rows:
            eps, t = torch.randn(4, 3, 16, 16), torch.randint(1000, (4,))
            loss = F.mse_loss(unet(noised(x0, eps, t), t).sample, eps)
            loss.backward()
            losses.append(loss.item())
            if len(losses) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            if len(losses) == 10:
                break

    options = ("--model", model_folder, "--data", twelve, "--image-size", 16, "--lr", 1e-3, "--seed", 3)
    record = run_baseline(capsys, "train", *options, "--steps", 10, "--save", tmp_path / "saved")
    assert record["losses"] == pytest.approx(losses, abs=1e-6)
    assert record["mean_loss"] == pytest.approx(sum(losses) / 10, abs=1e-6)
    saved = load_file(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(weight, saved[name], atol=1e-6) for name, weight in unet.state_dict().items())


def test_the_script_trains_as_written_out(model_folder, twelve, capsys, tmp_path):
    """With accelerate's fetching of a batch ahead, and with AdamW and the EMA in float64."""
    torch.manual_seed(3)
    unet = UNet2DModel.from_pretrained(model_folder / "unet").train()
    params, losses = [*unet.parameters()], []
    moments = [(torch.zeros_like(p, dtype=torch.float64), torch.zeros_like(p, dtype=torch.float64)) for p in params]
    averages = [p.detach().double() for p in params]
    while len(losses) < 6:
        batches = iter(shuffled(twelve))
        ahead = next(batches)
        while ahead is not None and len(losses) < 6:
            x0, ahead = ahead, next(batches, None)
            eps, t = torch.randn(4, 3, 16, 16), torch.randint(1000, (4,))
            loss = F.mse_loss(unet(noised(x0, eps, t), t).sample, eps)
            gradients = torch.autograd.grad(loss, params)
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            step, lr = len(losses) + 1, 1e-3 * (1 + math.cos(math.pi * len(losses) / 6)) / 2
            decay = 0 if step == 1 else 1 - step**-0.75  # (1 + n)^-3/4 after n updates, none of them before the first
            for p, g, (m, v), average in zip(params, gradients, moments, averages, strict=True):
                g = g.double() * min(1, 1 / norm)
                m.lerp_(g, 0.05)
                v.lerp_(g.square(), 0.001)
                update = m / (1 - 0.95**step) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
                p.data.mul_(1 - lr * 1e-6).sub_(lr * update)
                average.lerp_(p.detach().double(), 1 - decay)
            losses.append(loss.item())

    options = ("--model", model_folder, "--data", twelve, "--image-size", 16, "--lr", 1e-3, "--lr-warmup-steps", 0)
    options += ("--seed", 3, "--batch-size", 4, "--steps", 6, "--mixed-precision", "no", "--save", tmp_path / "saved")
    record = run_baseline(capsys, *options, program=diffusers_script)
    assert record["losses"] == pytest.approx(losses, abs=1e-5)
    saved = load_file(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    for (name, _), average in zip(unet.named_parameters(), averages, strict=True):
        assert torch.allclose(average.float(), saved[name], atol=1e-5), name


def test_the_plain_loop_samples_as_the_stock_scheduler_does(model_folder, capsys, tmp_path):
    unet, ddim = UNet2DModel.from_pretrained(model_folder / "unet").eval(), DDIMScheduler()
    torch.manual_seed(5)
    x = torch.randn(2, 3, 16, 16)
    ddim.set_timesteps(4)
    with torch.no_grad():
        for t in (750, 500, 250, 0):
            x = ddim.step(unet(x, t).sample, t, x).prev_sample
    record = run_baseline(
        capsys, "sample", "--model", model_folder, "--n", 2, "--ddim-steps", 4, "--seed", 5, "--save", tmp_path / "x"
    )
    assert torch.allclose(torch.load(tmp_path / "x"), x, atol=1e-6)
    assert record["images_per_second"] == pytest.approx(2 / record["timed_seconds"])


@pytest.mark.skipif("CHRYSALIS_REFERENCE_LOOP" not in os.environ, reason="names no reference loop to compare with")
def test_the_plain_loop_is_the_reference_loop(model_folder, twelve, tmp_path):
    def run(program) -> tuple[dict, dict]:
        saved = tmp_path / "saved" / os.path.basename(program)
        options = ["--model", model_folder, "--data", twelve, "--image-size", "16", "--steps", "10", "--save", saved]
        done = subprocess.run(
            [sys.executable, program, "train", *options, "--lr", "1e-3"], capture_output=True, text=True, check=True
        )
        weights = load_file(saved / "unet" / "diffusion_pytorch_model.safetensors")
        return json.loads(done.stdout.splitlines()[-1]), weights

    theirs, their_weights = run(os.environ["CHRYSALIS_REFERENCE_LOOP"])
    ours, our_weights = run(str(PLAIN_LOOP))
    assert set(theirs) <= set(ours)
    assert ours["mean_loss"] == pytest.approx(theirs["mean_loss"], abs=1e-6)
    assert all(torch.allclose(weight, our_weights[name], atol=1e-6) for name, weight in their_weights.items())
