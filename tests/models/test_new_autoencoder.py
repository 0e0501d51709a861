"""model=latent: an autoencoder is trained before the UNet, once in a run, and exported with it."""

import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from conftest import TINY_RUN
from diffusers import AutoencoderKL, LDMPipeline
from safetensors.torch import load_file

from chrysalis.data.pixels import to_signed
from chrysalis.models import new_autoencoder
from chrysalis.models.layout import WEIGHTS
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
    assert run("train", *SMALL, *TINY_RUN, "objective=v", "export.half=true", "name=a") == 0
    at = tmp_path / "runs" / "a"
    assert capfd.readouterr().err.count("the autoencoder reconstructs its training images") == 1
    kept = {file.name: file.stat().st_mtime_ns for file in (at / "autoencoder").iterdir()}
    assert run("train", "resume=runs/a", "trainer.max_steps=6") == 0
    assert {file.name: file.stat().st_mtime_ns for file in (at / "autoencoder").iterdir()} == kept
    assert "the autoencoder reconstructs" not in capfd.readouterr().err
    trained = AutoencoderKL.from_pretrained(at / "autoencoder").state_dict()
    exported = LDMPipeline.from_pretrained(at / "pipeline")
    assert load_file(at / "pipeline" / "vqvae" / WEIGHTS)["quant_conv.weight"].dtype == torch.float16
    assert all(
        torch.equal(weight, trained[name].half().float()) for name, weight in exported.vqvae.state_dict().items()
    )
    assert exported.scheduler.config.prediction_type == "v_prediction"
    assert run("sample", "model.pretrained=runs/a", "n=2", "steps=2") == 0


def test_it_moves_with_its_run_and_cannot_be_replaced(run, tmp_path, capfd):
    assert run("train", *SMALL, *TINY_RUN, "name=a") == 0
    (tmp_path / "runs" / "a").rename(tmp_path / "runs" / "b")
    before = (tmp_path / "runs" / "b" / "autoencoder" / WEIGHTS).read_bytes()
    assert run("train", "resume=runs/b", "trainer.max_steps=6") == 0
    assert (tmp_path / "runs" / "b" / "autoencoder" / WEIGHTS).read_bytes() == before
    assert not (tmp_path / "runs" / "a").exists()
    shutil.rmtree(tmp_path / "runs" / "b" / "autoencoder")
    assert run("train", "resume=runs/b", "trainer.max_steps=9") == 2
    assert "runs/b/autoencoder is missing or not the one" in capfd.readouterr().err


def test_a_preflight_trains_nothing(run, tmp_path, capfd):
    assert run("train", *SMALL, *TINY_RUN, "preflight=only", "name=a") == 0
    assert "not known yet: the autoencoder is trained first" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_it_learns_to_reconstruct(tmp_path):
    images = stripes(64)
    image_set = SimpleNamespace(images=images, folder=tmp_path / "stripes")
    how = {"optimizer": MUON, "block_out_channels": (8, 16), "steps": 100}
    family = NewLatentUNet(str(tmp_path), **how)
    x = to_signed(torch.from_numpy(images))

    def error() -> float:
        return (family._decoded(family.encode(torch.from_numpy(images))) - x).square().mean().item()

    before = error()
    family.prepare(image_set, np.arange(64), torch.device("cpu"))
    assert error() < 0.6 * before  # a fresh one gives grey, whose error is that of the images' own variance
    assert abs(family.encode(torch.from_numpy(images)).std().item() - 1) < 0.05
    z = family.encode(torch.from_numpy(images))
    assert torch.equal(NewLatentUNet(str(tmp_path), **how).encode(torch.from_numpy(images)), z)
    other = NewLatentUNet(str(tmp_path), **how | {"steps": 1})
    assert not torch.equal(other.encode(torch.from_numpy(images)), z), "an autoencoder of other settings is not taken"
    other.prepare(image_set, np.arange(64), torch.device("cpu"))
    assert not torch.equal(NewLatentUNet(str(tmp_path), **how | {"steps": 1}).encode(torch.from_numpy(images)), z)


def test_crops_become_whole_images():
    """Pixels per step stay about equal; whole images are the set's own, every second one mirrored."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 3, 128, 96), np.uint8)
    rows = np.arange(9)
    assert new_autoencoder._crops(images, rows, new_autoencoder.CROP, rng).shape == (16, 3, 64, 64)
    whole = new_autoencoder._crops(images, rows, new_autoencoder.LARGEST, rng)
    assert whole.shape == (5, 3, 128, 96)
    for k, image in enumerate(whole):
        assert ((image[..., ::-1] if k % 2 else image) == images).all(axis=(1, 2, 3)).any()
    assert new_autoencoder._crops(images.repeat(8, 2).repeat(8, 3), rows, 512, rng).shape == (1, 3, 512, 512)


def test_recolored_images_keep_their_shapes():
    """Grey stays grey, and where two pixels are equal they stay equal."""
    grey = torch.linspace(-0.5, 0.5, 16).expand(8, 3, 16)[..., None].repeat(1, 1, 1, 16)
    changed = new_autoencoder._recolored(grey)
    assert torch.allclose(changed, changed.mean(1, keepdim=True).expand_as(grey), atol=1e-6)
    assert (changed.abs() <= 1).all()
    assert torch.equal(changed, changed[..., :1].expand_as(changed))
    assert not torch.allclose(changed, grey, atol=0.1)
    x = torch.rand(8, 3, 4, 4) - 0.5
    assert new_autoencoder._recolored(x).sub(x).abs().flatten(1).amax(1).min() > 0


def test_bad_channels_are_refused(run, capfd):
    assert run("train", *SMALL, *TINY_RUN, "model.autoencoder.block_out_channels=[8,12]") == 2
    assert "model.autoencoder.block_out_channels=[8, 12] must be one or more multiples of 8" in capfd.readouterr().err
