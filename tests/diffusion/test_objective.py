import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr

from chrysalis.diffusion.noise import Noise
from chrysalis.diffusion.objective import Objective, choose
from chrysalis.system.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
T = torch.tensor([1, 37, 400, 998])


@pytest.fixture
def triple():
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.rand(4, 3, 8, 8, generator=g) * 2 - 1, torch.randn(4, 3, 8, 8, generator=g)
    noise = Noise(DDPMScheduler().alphas_cumprod)
    return x0, eps, noise, noise.add(x0, eps, T)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_leads_back_to_x0_and_eps(prediction, triple):
    x0, eps, noise, x_t = triple
    objective = Objective(prediction)
    out = objective.target(x0, eps, T, noise)
    torch.testing.assert_close(objective.to_x0(out, x_t, T, noise), x0, rtol=0, atol=3e-4)
    torch.testing.assert_close(objective.to_eps(out, x_t, T, noise), eps, rtol=0, atol=3e-4)


def test_v_is_the_velocity_of_diffusers(triple):
    x0, eps, noise, _ = triple
    torch.testing.assert_close(
        Objective("v_prediction").target(x0, eps, T, noise),
        DDPMScheduler().get_velocity(x0, eps, T),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x0_is_what_diffusers_takes_it_for(prediction, triple):
    _, _, noise, x_t = triple
    out = torch.randn(4, 3, 8, 8)
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(1000)
    for i, t in enumerate(T):
        theirs = scheduler.step(out[i : i + 1], int(t), x_t[i : i + 1]).pred_original_sample
        ours = Objective(prediction).to_x0(out[i : i + 1], x_t[i : i + 1], T[i : i + 1], noise)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_min_snr_weights_by_hand():
    """gamma 5: SNR above it is clamped, below it is not (Hang et al. 2023, table 1)."""
    scheduler, t = DDPMScheduler(), torch.tensor([10, 200, 999])
    noise = Noise(scheduler.alphas_cumprod)
    snr = compute_snr(scheduler, t)
    assert snr[0] > 5 > snr[2]
    clamped = snr.clamp(max=5)
    by_hand = {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}
    for prediction, expected in by_hand.items():
        torch.testing.assert_close(Objective(prediction, 5.0).weight(t, noise), expected, rtol=1e-4, atol=1e-7)
        assert Objective(prediction).weight(t, noise).tolist() == [1, 1, 1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_zero_terminal_snr_gives_finite_weights(prediction):
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    weights = Objective(prediction, 5.0).weight(torch.tensor([998, 999]), Noise(scheduler.alphas_cumprod))
    assert weights.isfinite().all()


def test_a_pretrained_objective_is_honoured():
    assert choose("v_prediction").prediction == "v_prediction"
    assert choose("v_prediction", "v").prediction == "v_prediction"
    assert choose(None).prediction == "epsilon"
    assert choose(None, "x0", 5.0).snr_gamma == 5.0
    with pytest.raises(UserError, match="predicts v"):
        choose("v_prediction", "eps")
    with pytest.raises(UserError, match="objective=epps"):
        choose(None, "epps")
