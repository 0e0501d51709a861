"""Images that are not square, through training, export and every task of sample.py, against stock diffusers."""

import math

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN
from diffusers import DDIMScheduler, DDPMPipeline
from PIL import Image

pytestmark = pytest.mark.proof  # a run, and six times sample.py

HEIGHT, WIDTH = 16, 24
RUN = [*TINY_MODEL, *TINY_RUN, f"data.image_size=[{HEIGHT},{WIDTH}]", "data.n=30", "name=wide"]
RUN += ["trainer.precision=32-true", "trainer.max_steps=2"]
GIVEN = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
HOLE = np.arange(WIDTH) >= 10  # the columns that inpainting generates


def image(path):
    return np.asarray(Image.open(path))


def stock(folder, seed, noised_to=None):
    """The loop that diffusers documents, of DDIM in 4 steps; from the given image, noised to a timestep, or noise."""
    loaded = DDPMPipeline.from_pretrained(folder)
    scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    scheduler.set_timesteps(4)
    x = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    timesteps = scheduler.timesteps
    if noised_to is not None:
        timesteps = timesteps[timesteps <= noised_to]
        x = scheduler.add_noise(torch.from_numpy(GIVEN / 127.5 - 1).permute(2, 0, 1)[None].float(), x, timesteps[:1])
    with torch.no_grad():
        for t in timesteps:
            x = scheduler.step(loaded.unet(x, t).sample, t, x).prev_sample
    return ((x[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()


def sheet(rows, columns, least=1):
    """The shape of a table of images, enlarged by a whole factor to at least so many pixels' width."""
    height, width = rows * (HEIGHT + 2) - 2, columns * (WIDTH + 2) - 2
    factor = math.ceil(least / width)
    return (factor * height, factor * width, 3)


def shows(figure, small):
    """Whether a figure contains a whole image, enlarged by any whole factor."""
    for factor in range(1, figure.shape[0] // len(small) + 1):
        part = small.repeat(factor, 0).repeat(factor, 1)
        height, width = part.shape[:2]
        for y, x in np.argwhere((figure == part[0, 0]).all(-1)):
            if np.array_equal(figure[y : y + height, x : x + width], part):
                return True
    return False


@pytest.fixture
def wide(trained):
    return trained(*RUN)


def test_a_run_shows_its_images_whole(wide):
    assert image(wide / "samples" / "step_000002.png").shape == sheet(1, 2, least=512)
    samples = image(wide / "samples" / "step_000002.png")
    factor = samples.shape[0] // HEIGHT
    assert shows(image(wide / "before_after.png"), samples[: factor * HEIGHT : factor, : factor * WIDTH : factor])


TASKS = {
    "generate": ([], (1, 2), {f"seed_{k:05d}": (k, None) for k in (0, 1)}),
    "img2img": (["task.image=given.png"], (1, 2), {f"seed_{k:05d}": (k, 500) for k in (0, 1)}),
    "inpaint": (["task.image=given.png", "task.mask=mask.png"], (1, 2), {}),
    "invert": (["task.image=given.png"], (1, 2), {}),
    "morph": (["task.frames=2"], None, {"frame_00000": (0, None), "frame_00002": (1, None)}),
    "blend": (["task.ratios=[0,1]", "task.base=runs/wide"], (2, 2), {"ratio_1.000_seed_00001": (1, None)}),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_draws_what_stock_diffusers_draws(run, wide, tmp_path, task):
    own, grid, expected = TASKS[task]
    Image.fromarray(GIVEN).save("given.png")
    Image.fromarray(np.tile(np.uint8(255 * HOLE), (HEIGHT, 1))).save("mask.png")
    more = ["trajectory=true", "trajectory_columns=3", "animation.frames=3", "animation.formats=[gif]"]
    words = ["model.pretrained=runs/wide", "n=2", "steps=4", f"task={task}", *own, "out=drawn", *more]
    assert run("sample", *words) == 0
    made = {p.stem: image(p) for p in (tmp_path / "drawn").glob("*.png")}
    ours = {name: pixels for name, pixels in made.items() if "_0" in name or name == "reconstruction"}
    assert all(pixels.shape == (HEIGHT, WIDTH, 3) for pixels in ours.values())
    assert made["grid" if grid else "morph"].shape == (sheet(*grid, least=512) if grid else sheet(1, 3))
    assert made["trajectory"].shape == sheet(2 * min(len(ours), 4) if task != "blend" else 4, 3)
    for name, how in expected.items():
        assert np.abs(ours[name].astype(int) - stock(tmp_path / "runs" / "wide" / "pipeline", *how)).max() <= 1, name
    if task == "inpaint":
        assert all((pixels[:, ~HOLE] == GIVEN[:, ~HOLE]).all() for pixels in ours.values())
        assert all((pixels[:, HOLE] != GIVEN[:, HOLE]).any() for pixels in ours.values())
