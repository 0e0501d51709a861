import diffusers
import numpy as np
import pytest
import torch
from conftest import tiny_unet
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

from chrysalis import pixels, seeds
from chrysalis.denoiser import Denoiser
from chrysalis.errors import UserError
from chrysalis.objective import Objective
from chrysalis.sampling import schedulers
from chrysalis.sampling.loop import sample, trajectory


def draw(denoiser, name, steps, generators, **settings):
    scheduler = schedulers.build(denoiser.scheduler, name, **settings)
    return sample(denoiser, scheduler, steps, generators, (16, 16))


def stock_pixels(pipeline, n, **settings):
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=n, generator=seeds.generators(5, n), **settings).images
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_draws_what_the_stock_pipeline_draws(prediction):
    training = DDPMScheduler(prediction_type=prediction)
    denoiser = Denoiser(tiny_unet().eval(), training, Objective(prediction))
    ours = pixels.to_uint8(draw(denoiser, "ddim", 12, seeds.generators(5, 3))).permute(0, 2, 3, 1).numpy()
    stock = DDIMPipeline(denoiser.unet, DDIMScheduler.from_config(training.config))
    assert (ours == stock_pixels(stock, 3, num_inference_steps=12)).all()


def test_ddpm_draws_what_the_stock_pipeline_draws(denoiser):
    ours = pixels.to_uint8(draw(denoiser, "ddpm", 15, seeds.generators(5, 3))).permute(0, 2, 3, 1).numpy()
    stock = DDPMPipeline(denoiser.unet, DDPMScheduler())
    assert (ours == stock_pixels(stock, 3, num_inference_steps=15)).all()


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_picture_is_the_same_in_any_batch(denoiser, name):
    together = draw(denoiser, name, 6, seeds.generators(5, 4))
    alone = draw(denoiser, name, 6, seeds.generators(7, 1))
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-4)


class Gaussian(torch.nn.Module):
    """The exact eps of data ~ N(mean, std^2): no network, a closed form."""

    dtype = torch.float32
    config = type("config", (), {"in_channels": 3})

    def __init__(self, abar, mean, std):
        super().__init__()
        self.abar, self.mean, self.std = abar.double(), mean, std

    def forward(self, x, t, return_dict=False):
        place = torch.as_tensor(t, dtype=torch.float64)
        low = place.floor().long().clamp(0, len(self.abar) - 1)
        high = (low + 1).clamp(max=len(self.abar) - 1)
        abar = torch.lerp(self.abar[low].log(), self.abar[high].log(), place - low).exp()
        a, s = abar.sqrt(), (1 - abar).sqrt()
        return ((s * (x - a * self.mean) / (a * a * self.std**2 + s * s)).float(),)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_gaussian_arrives_at_its_mean_and_spread(name):
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, Objective("epsilon"))
    steps = 1000 if name == "ddpm" else 100
    x = draw(denoiser, name, steps, seeds.generators(0, 16))
    assert x.mean().item() == pytest.approx(0.3, abs=0.02)
    assert x.std().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_the_first_x0_is_the_tweedie_estimate(denoiser, name):
    """x0 of the first step equals (x_t - sigma eps) / alpha, written out."""
    scheduler = schedulers.build(denoiser.scheduler, name)
    step = next(iter(trajectory(denoiser, scheduler, 10, seeds.generators(0, 1), (16, 16))))
    t = round(float(step.t))
    abar = denoiser.scheduler.alphas_cumprod[t].double()
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eps = denoiser.unet(x, step.t).sample
    expected = (x.double() - (1 - abar).sqrt() * eps.double()) / abar.sqrt()
    scale = expected.abs().max().item()
    torch.testing.assert_close(step.x0.double() / scale, expected / scale, rtol=0, atol=2e-3)


def test_every_name_is_a_scheduler_of_diffusers():
    for name, (kind, _) in schedulers.SCHEDULERS.items():
        plain = schedulers.build(DDPMScheduler(), name)
        torch.testing.assert_close(plain.alphas_cumprod, DDPMScheduler().alphas_cumprod)
        built = schedulers.build(DDPMScheduler(beta_end=0.01, prediction_type="v_prediction"), name)
        assert isinstance(built, getattr(diffusers, kind))
        assert built.config.beta_end == 0.01
        assert built.config.prediction_type == "v_prediction"
    with pytest.raises(UserError, match="ddim, ddpm"):
        schedulers.build(DDPMScheduler(), "dddim")


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_sampler_is_the_same_before_and_after_export(tmp_path, name):
    training = DDPMScheduler()
    training.save_pretrained(tmp_path)
    reloaded = schedulers.build(DDPMScheduler.from_pretrained(tmp_path), name)
    built = schedulers.build(training, name)
    for scheduler in (built, reloaded):
        scheduler.set_timesteps(10)
    assert torch.equal(built.timesteps, reloaded.timesteps)
    different = {k for k in built.config if not k.startswith("_") and built.config[k] != reloaded.config[k]}
    assert not different & {"clip_sample", "timestep_spacing", "steps_offset", "thresholding", "beta_start", "beta_end"}


def test_drawing_leaves_the_training_scheduler_alone(denoiser):
    before = denoiser.scheduler.timesteps.clone()
    draw(denoiser, "ddpm", 5, seeds.generators(0, 1))
    assert torch.equal(denoiser.scheduler.timesteps, before)
