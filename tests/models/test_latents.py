"""Latent models, from training to guided samples; stock diffusers generates the same pixels from the export."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, tiny_unet
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, LDMPipeline, VQModel
from model_folders import Harm, refusal, train_and_resume
from PIL import Image
from safetensors.torch import load_file

from chrysalis.data import pixels
from chrysalis.data.encoded import encoded
from chrysalis.data.loaders import BatchDataset, Rows
from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.data.transforms import to_training_size
from chrysalis.models import folder

BLOCKS = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
TYPES = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def tiny_autoencoder(kind):
    """An autoencoder that halves images, with random weights and a decoder whose output varies enough to be seen."""
    torch.manual_seed(1)
    settings = {"num_vq_embeddings": 64} if kind is VQModel else {}
    autoencoder = kind(latent_channels=3, scaling_factor=0.7, sample_size=16, **BLOCKS, **TYPES, **settings)
    with torch.no_grad():
        autoencoder.decoder.conv_out.weight.mul_(3)
        if kind is VQModel:
            autoencoder.quantize.embedding.weight.normal_()
    return autoencoder.eval()


@pytest.fixture(params=[VQModel, AutoencoderKL])
def kind(request):
    return request.param


@pytest.fixture
def pretrained(tmp_path, kind):
    scheduler = DDIMScheduler(clip_sample=False)
    unet = tiny_unet(sample_size=8)
    LDMPipeline(vqvae=tiny_autoencoder(kind), unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def photos(tmp_path):
    at, rng = tmp_path / "photos", np.random.default_rng(0)
    at.mkdir()
    for i in range(30):
        cells = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(cells).resize((16, 16), Image.Resampling.BILINEAR).save(at / f"{i:02}.png")
    return at


def test_random_weights_keep_the_shape_and_the_autoencoder(pretrained):
    trained = folder.load(str(pretrained))
    torch.manual_seed(3)
    model = folder.load(str(pretrained), random=True)
    assert model.unet.config == trained.unet.config
    assert model.origin is None
    assert model.prediction is None  # training chooses what it predicts
    pairs = list(zip(model.unet.parameters(), trained.unet.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in pairs if a.ndim > 1)
    assert model.family.fingerprint() == trained.family.fingerprint()


def test_training_export_and_samples(run, tmp_path, pretrained, photos, tiny_features, kind, capfd):
    on = [f"model.pretrained={pretrained}", "data=folder", f"data.path={photos}", "data.image_size=16"]
    train_and_resume(run, *on, *tiny_features)
    card = (tmp_path / "runs" / "a" / "pipeline" / "README.md").read_text()
    assert "LDMPipeline.from_pretrained" in card

    how = ["model.pretrained=runs/a", "scheduler=ddim", "steps=3", "seed=5"]
    assert run("sample", *how, "n=2", "out=samples") == 0
    stock = LDMPipeline.from_pretrained(tmp_path / "runs" / "a" / "pipeline")
    assert type(stock.vqvae) is kind
    for seed in (5, 6):
        generator = torch.Generator().manual_seed(seed)
        expected = stock(1, generator, num_inference_steps=3, output_type="np").images[0] * 255
        ours = np.asarray(Image.open(tmp_path / "samples" / f"seed_{seed:05}.png"), dtype=float)
        assert ours.std() > 5
        assert np.abs(ours - expected).max() <= 1


def test_guidance_and_tasks(run, tmp_path, pretrained, photos, capfd):
    how = [f"model.pretrained={pretrained}", "scheduler=ddim", "steps=3", "n=1"]
    guided = [*how, "guidance=[brightness,symmetry]", "guidance.brightness.scale=20"]
    assert run("sample", *guided, "guidance.symmetry.at=x_t", "out=guided", "trajectory=true") == 0
    assert run("sample", *guided, "guidance.brightness.target=1", "out=bright") == 0
    assert run("sample", *how, "out=plain") == 0
    images = {at: np.asarray(Image.open(tmp_path / at / "seed_00000.png")) for at in ("guided", "bright", "plain")}
    assert images["bright"].mean() > images["plain"].mean() + 1
    assert not np.array_equal(images["guided"], images["plain"])
    start = [*how, f"task.image={photos / '00.png'}"]
    assert run("sample", *start, "task=img2img", "out=img2img") == 0
    assert run("sample", *start, "task=invert", "scheduler=ddim", "out=invert") == 0
    mask = tmp_path / "mask.png"
    Image.fromarray(np.repeat(np.uint8([[0] * 7 + [255] * 9]), 16, 0)).save(mask)
    assert run("sample", *start, "task=inpaint", f"task.mask={mask}", "out=inpaint") == 0
    given = to_training_size(Image.open(photos / "00.png"), (3, 16, 16), "crop").transpose(1, 2, 0)
    inpainted = np.asarray(Image.open(tmp_path / "inpaint" / "seed_00000.png"))
    assert np.array_equal(inpainted[:, :7], given[:, :7])
    assert not np.array_equal(inpainted[:, 7:], given[:, 7:])


def test_conditions(run, tmp_path, pretrained, photos, capfd):
    on = ["data=folder", f"data.path={photos}", "data.image_size=16", "trainer.max_steps=2", "name=b"]
    given = [f"model.pretrained={pretrained}", "condition=image", "condition.image.source=grey"]
    assert run("train", *given, *on, *TINY_RUN) == 0
    at = str(tmp_path / "runs" / "b" / "pipeline")
    file = photos / "03.png"
    assert run("sample", "model.pretrained=runs/b", f"image={file}", "scheduler=ddim", "steps=3", "n=1", "out=s") == 0
    pipeline = DiffusionPipeline.from_pretrained(at, custom_pipeline=at, trust_remote_code=True)
    luma = np.array(Image.open(file)) @ np.array(pixels.LUMA)
    image = torch.tensor(luma / 127.5 - 1).float().expand(1, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    expected = pipeline(1, image=image, generator=generator, num_inference_steps=3, output_type="np").images[0] * 255
    ours = np.asarray(Image.open(tmp_path / "s" / "seed_00000.png"), dtype=float)
    assert np.abs(ours - expected).max() <= 1


def test_latents_against_diffusers(pretrained, kind):
    """x_0 has the mean and the standard deviation of diffusers' own encoder, and decodes to diffusers' own image."""
    family = folder.load(str(pretrained)).family
    stock = LDMPipeline.from_pretrained(pretrained).vqvae
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        encoding = stock.encode(images / 127.5 - 1)
        latents = encoding.latent_dist.mean if kind is AutoencoderKL else encoding.latents
        decoded = stock.decode(latents).sample
    x0 = family.encode(images)
    assert torch.allclose(x0, 0.7 * latents, atol=1e-5)
    assert (family.decode(x0).int() - pixels.to_uint8(decoded).int()).abs().max() <= 1
    shown = family.rgb(x0.requires_grad_())
    assert torch.allclose(shown, decoded, atol=1e-4)
    assert (torch.autograd.grad(shown.sum(), x0)[0] != 0).any()


def test_the_cached_latents(pretrained, kind):
    """Batches have the moments of their own, possibly mirrored, images; each epoch draws a KL model's latents anew."""
    family, image_set = (
        folder.load(str(pretrained)).family,
        open_set(DrawnSource("butterflies", 8), (3, 16, 16), "crop"),
    )
    file = encoded(image_set, np.arange(8), family, True, torch.device("cpu"))
    before = file.stat().st_mtime_ns
    assert encoded(image_set, np.arange(8), family, True, torch.device("cpu")).stat().st_mtime_ns == before
    dataset = BatchDataset(image_set, True, moments=file)
    rows, keys = np.arange(4), np.array([0, 128, 256 + 128, 512])  # the second and the third are mirrored
    batch = dataset[Rows(rows, keys, np.zeros(4, np.float32), 4)]
    assert torch.allclose(batch.moments, family.moments(batch.image), atol=1e-5)
    epochs = [dataset[Rows(rows, keys + 1024 * k, np.zeros(4, np.float32), 4)] for k in range(400)]
    x0 = torch.stack([family.encode_batch(epoch) for epoch in epochs])
    if kind is VQModel:
        assert torch.equal(x0[0], x0[1])
        return
    normal = folder.load(str(pretrained)).family.autoencoder.encode(batch.image / 127.5 - 1).latent_dist
    assert torch.allclose(x0.mean(0), 0.7 * normal.mean, atol=float(0.7 * normal.std.max() / 4))
    assert torch.allclose(x0.std(0).mean(), 0.7 * normal.std.mean(), rtol=0.02)


def test_no_code_in_a_bin_file_of_the_autoencoder_is_run(pretrained, tmp_path):
    at = pretrained / "vqvae"
    weights = load_file(at / "diffusion_pytorch_model.safetensors")
    (at / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(weights, at / "diffusion_pytorch_model.bin")
    loaded = folder.load(str(pretrained)).family.autoencoder.state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in weights.items())
    torch.save({**weights, "more": Harm(tmp_path / "harm")}, at / "diffusion_pytorch_model.bin")
    assert "holds more than tensors, and no code in it is run" in refusal(pretrained)
    assert not (tmp_path / "harm").exists()


def test_bad_folders(pretrained, kind, run, capfd):
    config = json.loads((pretrained / "vqvae" / "config.json").read_text())

    def message(**changes):
        (pretrained / "vqvae" / "config.json").write_text(json.dumps({**config, **changes}))
        assert run("sample", f"model.pretrained={pretrained}", "n=1") == 2
        return capfd.readouterr().err

    assert "has AsymmetricAutoencoderKL in vqvae/" in message(_class_name="AsymmetricAutoencoderKL")
    assert "belong together" in message(latent_channels=5)
    if kind is AutoencoderKL:
        assert "shifts its latents" in message(shift_factor=0.1)
    (pretrained / "vqvae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "has no weights" in message()


def test_a_second_model_has_the_same_latents(run, tmp_path, pretrained, kind, capfd):
    other = LDMPipeline.from_pretrained(pretrained)
    other.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        other.vqvae.encoder.conv_out.weight.neg_()
    other.save_pretrained(tmp_path / "other")
    how = [f"model.pretrained={pretrained}", "steps=2", "n=1", "guidance=domain"]
    assert run("sample", *how, f"guidance.domain.base={tmp_path / 'same'}", "out=s") == 0
    assert run("sample", *how, f"guidance.domain.base={tmp_path / 'other'}", "out=o") == 2
    assert "has other latents than" in capfd.readouterr().err


def test_a_negative_mask_has_the_size_of_the_images(run, tmp_path, pretrained):
    how = [f"model.pretrained={pretrained}", "condition=mask", "data.n=12", "data.image_size=16"]
    assert run("train", *how, *TINY_RUN, "name=m") == 0
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    Image.new("L", (16, 16), 0).save(tmp_path / "black.png")
    guided = ["model.pretrained=runs/m", "mask=white.png", "guidance=cfg", "guidance.scale=2", "steps=2", "n=1"]
    assert run("sample", *guided, "guidance.negative.mask=black.png", "out=black") == 0
    assert run("sample", *guided, "guidance.negative.mask=white.png", "out=white") == 0
    assert run("sample", *guided, "guidance.scale=1", "out=plain") == 0
    images = [
        np.asarray(Image.open(tmp_path / at / "seed_00000.png")).astype(int) for at in ("black", "white", "plain")
    ]
    assert np.abs(images[1] - images[2]).max() <= 1  # away from the condition itself: no difference


def test_an_export_that_is_not_square(run, tmp_path, pretrained):
    how = [f"model.pretrained={pretrained}", "data.n=12", "data.image_size=[16,32]"]
    assert run("train", *how, *TINY_RUN, "name=wide") == 0
    at = tmp_path / "runs" / "wide" / "pipeline"
    pipeline = DiffusionPipeline.from_pretrained(at, custom_pipeline=str(at), trust_remote_code=True)
    assert pipeline(num_inference_steps=2).images[0].size == (32, 16)
