"""Every scheduler beside the loop that diffusers documents: as many steps as timesteps, and zero terminal SNR."""

import copy

import pytest
import torch
from conftest import ClosedForm
from diffusers import DDPMScheduler

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.sampling import schedulers
from chrysalis.sampling.loop import sample
from chrysalis.sampling.schedulers import step_arguments
from chrysalis.sampling.timesteps import TimestepSchedule
from chrysalis.system.errors import UserError

SHAPE = (1, 3, 4, 4)
ZERO_SNR = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc")


class Bounded(ClosedForm):
    """A function of x_t and t in place of a network, whatever it is taken to predict."""

    def forward(self, x, t, return_dict=False):
        return (torch.tanh(0.7 * x + 0.1 * torch.sin(torch.as_tensor(t).float() / 50)),)


def stock(unet, scheduler, steps):
    """The loop that diffusers documents, from noise scaled so that the first input of the UNet has variance 1."""
    scheduler, generators = copy.deepcopy(scheduler), [torch.Generator().manual_seed(3)]
    scheduler.set_timesteps(steps)
    x = torch.randn(SHAPE, generator=generators[0])
    x = x / scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0])
    extra = step_arguments(scheduler, generators)
    for t in scheduler.timesteps:
        x = scheduler.step(unet(scheduler.scale_model_input(x, t), t)[0], t, x, **extra).prev_sample
    return x


def ours(training, scheduler, steps):
    denoiser = Denoiser(Bounded(training.alphas_cumprod), training, objective(training.config.prediction_type))
    return sample(denoiser, scheduler, steps, [torch.Generator().manual_seed(3)], SHAPE[-2:])


@pytest.mark.parametrize("timesteps", [20, pytest.param(1000, marks=pytest.mark.proof)])  # minutes
@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_as_many_steps_as_the_model_has_timesteps(name, timesteps):
    training = DDPMScheduler(timesteps)
    scheduler = schedulers.build(training, name)
    schedule = TimestepSchedule(scheduler, timesteps)
    assert len(schedule) == timesteps
    sigmas = getattr(schedule.scheduler, "sigmas", None)
    levels = [float(schedule.timestep(k)) for k in range(timesteps)]
    if scheduler.config.get("use_karras_sigmas"):  # whose levels lie closer than timesteps, which some round
        assert levels == sorted(levels, reverse=True)
        assert len(set(sigmas.tolist())) >= timesteps
    else:
        assert levels == list(range(timesteps - 1, -1, -1))
    x = ours(training, scheduler, timesteps)
    assert x.isfinite().all()
    tolerance = 1e-5 if timesteps < 100 else 1e-3  # of float32, over a thousand steps
    unet = Bounded(training.alphas_cumprod)
    torch.testing.assert_close(x, stock(unet, scheduler, timesteps), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_zero_terminal_snr_samples_or_is_refused_by_name(name, listed):
    """Also where a folder lists the rescaled betas and says no more of it."""
    flagged = DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    training = DDPMScheduler(trained_betas=flagged.betas.tolist(), prediction_type="v_prediction")
    assert float(training.alphas_cumprod[-1]) == 0
    training = training if listed else flagged
    if name not in ZERO_SNR:
        with pytest.raises(UserError, match=f"scheduler={name} cannot serve a model with zero terminal SNR: use ddim"):
            schedulers.build(training, name)
        return
    x = ours(training, schedulers.build(training, name), 10)
    assert x.isfinite().all()
    reference = stock(Bounded(training.alphas_cumprod), schedulers.build(flagged, name), 10)
    torch.testing.assert_close(x, reference, rtol=1e-5, atol=1e-5)
