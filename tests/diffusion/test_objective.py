import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr

from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.objective import choose, objective
from chrysalis.diffusion.prediction import Prediction
from chrysalis.diffusion.weighting import MinSNR, Uniform
from chrysalis.system.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
T = torch.tensor([1, 37, 400, 998])


@pytest.fixture
def triple():
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.rand(4, 3, 8, 8, generator=g) * 2 - 1, torch.randn(4, 3, 8, 8, generator=g)
    noise = NoiseSchedule(DDPMScheduler().alphas_cumprod)
    return x0, eps, noise, noise.add(x0, eps, T)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_leads_back_to_x0_and_eps(prediction, triple):
    x0, eps, noise, x_t = triple
    predicts = objective(prediction)
    predicted = Prediction(predicts.target(x0, eps, T, noise), x_t, T, noise, predicts)
    torch.testing.assert_close(predicted.x0, x0, rtol=0, atol=3e-4)
    torch.testing.assert_close(predicted.eps, eps, rtol=0, atol=3e-4)
    torch.testing.assert_close(predicted.v, DDPMScheduler().get_velocity(x0, eps, T), rtol=0, atol=3e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_shift_moves_x0_by_the_change_at_the_same_x_t(prediction, triple):
    x0, eps, noise, x_t = triple
    predicts, change = objective(prediction), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    predicted = Prediction(predicts.target(x0, eps, T, noise), x_t, T, noise, predicts)
    torch.testing.assert_close(predicted.shifted(change).x0, x0 + change, rtol=1e-3, atol=1e-3)
    assert torch.equal(predicted.shifted(torch.zeros_like(x0)).out, predicted.out)
    a, s = noise.alpha(T), noise.sigma(T)
    torch.testing.assert_close(
        a * predicted.shifted(change).x0 + s * predicted.shifted(change).eps, x_t, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_scheduler_gets_its_prediction_type(prediction, triple):
    """Every pair of a model's and a scheduler's prediction type steps to the same x, as stock DDIM computes it."""
    x0, eps, noise, x_t = triple
    predicts = objective(prediction)
    predicted = Prediction(predicts.target(x0, eps, T, noise), x_t, T, noise, predicts)
    for reads in PREDICTIONS:
        scheduler = DDIMScheduler(prediction_type=reads, clip_sample=False)
        scheduler.set_timesteps(1000)
        for i, t in enumerate(T):
            out = predicted.for_scheduler(scheduler)[i : i + 1]
            found = scheduler.step(out, int(t), x_t[i : i + 1]).pred_original_sample
            torch.testing.assert_close(found, x0[i : i + 1], rtol=0, atol=1e-3)


def test_v_is_the_velocity_of_diffusers(triple):
    x0, eps, noise, _ = triple
    torch.testing.assert_close(
        objective("v_prediction").target(x0, eps, T, noise),
        DDPMScheduler().get_velocity(x0, eps, T),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x0_is_that_of_diffusers(prediction, triple):
    _, _, noise, x_t = triple
    out = torch.randn(4, 3, 8, 8)
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(1000)
    for i, t in enumerate(T):
        theirs = scheduler.step(out[i : i + 1], int(t), x_t[i : i + 1]).pred_original_sample
        ours = objective(prediction).x0(out[i : i + 1], x_t[i : i + 1], T[i : i + 1], noise)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_min_snr_weights_by_hand():
    """gamma 5: SNR above it is clamped, below it is not (Hang et al. 2023, table 1)."""
    scheduler, t = DDPMScheduler(), torch.tensor([10, 200, 999])
    noise = NoiseSchedule(scheduler.alphas_cumprod)
    snr = compute_snr(scheduler, t)
    assert snr[0] > 5 > snr[2]
    clamped = snr.clamp(max=5)
    by_hand = {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}
    for prediction, expected in by_hand.items():
        torch.testing.assert_close(MinSNR(5.0)(t, noise, objective(prediction)), expected, rtol=1e-4, atol=1e-7)
        assert Uniform()(t, noise, objective(prediction)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_zero_terminal_snr_gives_finite_weights(prediction):
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    weights = MinSNR(5.0)(torch.tensor([998, 999]), NoiseSchedule(scheduler.alphas_cumprod), objective(prediction))
    assert weights.isfinite().all()


def test_a_pretrained_model_keeps_its_objective():
    assert choose("v_prediction").name == "v_prediction"
    assert choose("v_prediction", "v").name == "v_prediction"
    assert choose(None).name == "epsilon"
    assert choose(None, "x0").name == "sample"
    with pytest.raises(UserError, match="predicts v"):
        choose("v_prediction", "eps")
    with pytest.raises(UserError, match="objective=epps"):
        choose(None, "epps")
