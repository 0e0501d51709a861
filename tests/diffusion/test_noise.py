import pytest
import torch
from diffusers import DDPMScheduler

from chrysalis.diffusion.noise import NoiseSchedule

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_adds_noise_as_diffusers_does(schedule):
    scheduler = DDPMScheduler(beta_schedule=schedule)
    noise, t = NoiseSchedule(scheduler.alphas_cumprod), torch.tensor([0, 1, 500, 999])
    x0, eps = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(noise.add(x0, eps, t), scheduler.add_noise(x0, eps, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_snr_is_abar_over_one_minus_abar(schedule):
    abar = DDPMScheduler(beta_schedule=schedule).alphas_cumprod.double()
    t = torch.arange(1000)
    noise = NoiseSchedule(abar)
    torch.testing.assert_close(noise.snr(t).double(), abar / (1 - abar), rtol=1e-6, atol=0)
    torch.testing.assert_close(noise.alpha(t) ** 2 + noise.sigma(t) ** 2, torch.ones(1000, 1, 1, 1))


def test_stays_float32_in_a_bfloat16_module():
    noise = NoiseSchedule(DDPMScheduler().alphas_cumprod).to(torch.bfloat16)
    assert noise.alphas.dtype == noise.sigmas.dtype == noise.snrs.dtype == torch.float32
    assert noise.state_dict() == {}
