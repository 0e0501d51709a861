"""model=latent: an autoencoder is trained before the UNet, once in a run, and exported with it."""

from functools import partial

import numpy as np
import torch
from conftest import TINY_RUN
from diffusers import AutoencoderKL, LDMPipeline

from chrysalis.data.pixels import to_signed
from chrysalis.models.new_autoencoder import NewLatentUNet
from chrysalis.training.muon import Muon

SMALL = ["model=latent", "data.n=12", "data.image_size=32", "model.block_out_channels=[8,8]"]
SMALL += ["model.attention_levels=[]", "model.autoencoder.block_out_channels=[8,8]", "model.autoencoder.steps=3"]


MUON = partial(Muon, lr=2e-3, weight_decay=0)


def stripes(n: int) -> np.ndarray:
    """n images of 16 px with stripes of two colors."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (n, 2, 3), np.uint8)
    return np.stack([pair[np.arange(16) // 4 % 2].T[:, None].repeat(16, 1) for pair in colors])


def test_a_run_trains_it_once(run, tmp_path, capfd):
    assert run("train", *SMALL, *TINY_RUN, "objective=v", "name=a") == 0
    at = tmp_path / "runs" / "a"
    assert capfd.readouterr().err.count("the autoencoder reconstructs its training images") == 1
    kept = {file.name: file.stat().st_mtime_ns for file in (at / "autoencoder").iterdir()}
    assert run("train", "resume=runs/a", "trainer.max_steps=6") == 0
    assert {file.name: file.stat().st_mtime_ns for file in (at / "autoencoder").iterdir()} == kept
    assert "the autoencoder reconstructs" not in capfd.readouterr().err
    trained = AutoencoderKL.from_pretrained(at / "autoencoder").state_dict()
    exported = LDMPipeline.from_pretrained(at / "pipeline")
    assert all(torch.equal(weight, trained[name]) for name, weight in exported.vqvae.state_dict().items())
    assert exported.scheduler.config.prediction_type == "v_prediction"
    assert run("sample", "model.pretrained=runs/a", "n=2", "steps=2") == 0


def test_a_preflight_trains_nothing(run, tmp_path, capfd):
    assert run("train", *SMALL, *TINY_RUN, "preflight=only", "name=a") == 0
    assert not (tmp_path / "runs").exists()


def test_it_learns_to_reconstruct(tmp_path):
    images = stripes(64)
    family = NewLatentUNet(str(tmp_path / "autoencoder"), MUON, block_out_channels=(8, 16), steps=100)
    x = to_signed(torch.from_numpy(images))

    def error() -> float:
        return (family._decoded(family.encode(torch.from_numpy(images))) - x).square().mean().item()

    before = error()
    family.prepare(images, torch.device("cpu"))
    assert error() < 0.6 * before  # a fresh one gives grey, whose error is that of the images' own variance
    assert abs(family.encode(torch.from_numpy(images)).std().item() - 1) < 0.05
    again = NewLatentUNet(str(tmp_path / "autoencoder"), MUON, block_out_channels=(8, 16), steps=100)
    assert torch.equal(again.encode(torch.from_numpy(images)), family.encode(torch.from_numpy(images)))


def test_bad_channels_are_refused(run, capfd):
    assert run("train", *SMALL, *TINY_RUN, "model.autoencoder.block_out_channels=[8,12]") == 2
    assert "model.autoencoder.block_out_channels=[8, 12] must be one or more multiples of 8" in capfd.readouterr().err
