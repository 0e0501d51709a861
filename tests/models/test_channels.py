"""Grey and RGBA models, from training to guided samples; stock diffusers generates the same pixels from the export."""

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, tiny_unet
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from model_folders import train_and_resume
from PIL import Image

from chrysalis.data import pixels
from chrysalis.data.loaders import BatchDataset, Rows
from chrysalis.data.sources.folder import folder_data
from chrysalis.data.store import open_set
from chrysalis.data.transforms import to_training_size
from chrysalis.models import folder
from chrysalis.models.pixel_unet import GreyUNet, PixelUNet, RGBAUNet

MODES = {1: "L", 4: "RGBA"}


@pytest.fixture(params=[1, 4])
def channels(request):
    return request.param


@pytest.fixture
def pretrained(tmp_path, channels):
    unet = tiny_unet(in_channels=channels, out_channels=channels)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def cutouts(tmp_path):
    """30 images of 20 x 20 pixels: colors, whose left half is transparent."""
    at, rng = tmp_path / "cutouts", np.random.default_rng(0)
    at.mkdir()
    for i in range(30):
        rgba = rng.integers(0, 256, (20, 20, 4), np.uint8)
        rgba[:, :10, 3], rgba[:, 10:, 3] = 0, 255
        Image.fromarray(rgba).save(at / f"{i:02}.png")
    return at


def test_training_export_and_samples(run, tmp_path, pretrained, cutouts, channels, tiny_features, capfd):
    assert type(folder.load(str(pretrained)).family) is {1: GreyUNet, 4: RGBAUNet}[channels]
    on = [f"model.pretrained={pretrained}", "data=folder", f"data.path={cutouts}", "data.image_size=16"]
    train_and_resume(run, *on, *tiny_features)
    assert (tmp_path / "runs" / "a" / "before_after.png").is_file()

    how = ["model.pretrained=runs/a", "scheduler=ddim", "steps=3", "seed=5"]
    assert run("sample", *how, "n=2", "out=samples") == 0
    stock = DDPMPipeline.from_pretrained(tmp_path / "runs" / "a" / "pipeline")
    ddim = DDIMPipeline(stock.unet, DDIMScheduler.from_config(stock.scheduler.config))
    for seed in (5, 6):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            expected = ddim(1, generator, num_inference_steps=3, output_type="np").images[0] * 255
        image = Image.open(tmp_path / "samples" / f"seed_{seed:05}.png")
        assert image.mode == MODES[channels]
        ours = np.asarray(image, dtype=float).reshape(expected.shape)
        assert np.abs(ours - expected).max() <= 1
    assert Image.open(tmp_path / "samples" / "grid.png").mode in ("RGB", MODES[channels])


def test_guidance_tasks_and_conditions(run, tmp_path, pretrained, cutouts, channels, capfd):
    how = [f"model.pretrained={pretrained}", "steps=3", "n=1"]
    assert run("sample", *how, "guidance=[brightness,symmetry]", "out=guided") == 0
    assert run("sample", *how, "out=plain") == 0
    guided, plain = (np.asarray(Image.open(tmp_path / at / "seed_00000.png")) for at in ("guided", "plain"))
    assert not np.array_equal(guided, plain)
    start = [*how, f"task.image={cutouts / '00.png'}"]
    assert run("sample", *start, "task=img2img", "out=img2img") == 0
    mask = tmp_path / "mask.png"
    Image.fromarray(np.repeat(np.uint8([[0] * 8 + [255] * 8]), 16, 0)).save(mask)
    assert run("sample", *start, "task=inpaint", f"task.mask={mask}", "out=inpaint") == 0
    inpainted = Image.open(tmp_path / "inpaint" / "seed_00000.png")
    given = to_training_size(Image.open(cutouts / "00.png"), (channels, 16, 16), "crop")
    ours = np.asarray(inpainted).reshape(16, 16, channels).transpose(2, 0, 1)
    assert np.array_equal(ours[..., :8], given[..., :8])
    on = ["data=folder", f"data.path={cutouts}", "data.image_size=16", "trainer.max_steps=2", "name=b"]
    assert run("train", how[0], *on, *TINY_RUN, "condition=image", "condition.image.source=grey") == 0


def test_conversion_of_images():
    rng = np.random.default_rng(1)
    rgba = rng.integers(0, 256, (8, 8, 4), np.uint8)
    shape = (8, 8)
    grey = to_training_size(Image.fromarray(rgba[..., :3]), (1, *shape), "crop")[0]
    luma = rgba[..., :3] @ np.array(pixels.LUMA)
    assert np.abs(grey - luma).max() <= 1
    kept = to_training_size(Image.fromarray(rgba), (4, *shape), "crop")
    assert np.array_equal(kept, rgba.transpose(2, 0, 1))
    opaque = to_training_size(Image.fromarray(rgba[..., :3]), (4, *shape), "crop")
    assert np.array_equal(opaque[:3], rgba[..., :3].transpose(2, 0, 1))
    assert (opaque[3] == 255).all()
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (to_training_size(clear, (1, *shape), "crop") == 255).all()  # white shows through


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_image_that_x0_shows(count):
    """The RGB of a float x0 is that of the decoded image, up to its rounding, and has a gradient in every channel."""
    x0 = (torch.rand(2, count, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_()
    shown = {1: GreyUNet, 3: PixelUNet, 4: RGBAUNet}[count]().rgb(x0)
    expected = pixels.to_signed(pixels.as_rgb(pixels.to_uint8(x0.detach())))
    assert (shown - expected).abs().max() < 3 / 127.5
    (gradient,) = torch.autograd.grad(shown.square().sum(), x0)
    assert (gradient != 0).any(dim=3).any(dim=2).any(dim=0).all()


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_grey_of_16_bits_keeps_its_precision(tmp_path, resize):
    """x_0 of a file of 16 bits is within half a level of 65536; a file of 8 bits has the x_0 that it had."""
    rng = np.random.default_rng(3)
    values = rng.integers(30_000, 30_200, (16, 16)).astype(np.uint16)  # less than one level of 256
    for name, image in (("deep", values), ("plain", (values % 256).astype(np.uint8))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    found = open_set(folder_data(str(tmp_path)).source, (1, 16, 16), resize)
    rows = np.argsort(found.names)  # deep, plain
    batch = BatchDataset(found, flip=False)[Rows(rows, np.zeros(2, int), np.zeros(2, np.float32), 2)]
    deep, plain = GreyUNet().encode_batch(batch)
    assert np.abs((deep[0].numpy() + 1) * 32767.5 - values).max() <= 0.5
    assert torch.allclose(plain[0], torch.from_numpy(values % 256 / 127.5 - 1).float(), atol=1e-6)
    mirrored = BatchDataset(found, flip=True)[Rows(rows, np.full(2, 128), np.zeros(2, np.float32), 2)]
    assert torch.equal(GreyUNet().encode_batch(mirrored), torch.stack([deep, plain]).flip(-1))
