import functools

import diffusers
import numpy as np
import pytest
import torch
from conftest import built, shallow_unet, tiny_unet
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, KDPM2AncestralDiscreteScheduler
from tiny_models import Gaussian

from chrysalis.data import pixels
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.sampling import schedulers, timesteps
from chrysalis.sampling.loop import sample, trajectory
from chrysalis.sampling.timesteps import TimestepSchedule
from chrysalis.system.errors import UserError


def final(denoiser, name, steps, generators, **settings):
    scheduler = schedulers.build(denoiser.scheduler, name, **settings) if settings else built(denoiser.scheduler, name)
    return sample(denoiser, scheduler, steps, generators, (16, 16))


def stock_pixels(pipeline, n, **settings):
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=n, generator=seeds.generators(range(5, 5 + n)), **settings).images
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_generates_what_the_stock_pipeline_generates(prediction):
    training = DDPMScheduler(prediction_type=prediction)
    denoiser = Denoiser(tiny_unet().eval(), training, objective(prediction))
    ours = pixels.to_uint8(final(denoiser, "ddim", 12, seeds.generators(range(5, 8)))).permute(0, 2, 3, 1).numpy()
    stock = DDIMPipeline(denoiser.unet, DDIMScheduler.from_config(training.config))
    assert (ours == stock_pixels(stock, 3, num_inference_steps=12)).all()


def test_ddpm_generates_what_the_stock_pipeline_generates(denoiser):
    ours = pixels.to_uint8(final(denoiser, "ddpm", 15, seeds.generators(range(5, 8)))).permute(0, 2, 3, 1).numpy()
    stock = DDPMPipeline(denoiser.unet, DDPMScheduler())
    assert (ours == stock_pixels(stock, 3, num_inference_steps=15)).all()


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_an_image_is_the_same_in_any_batch(denoiser, name):
    together = final(denoiser, name, 6, seeds.generators(range(5, 9)))
    alone = final(denoiser, name, 6, seeds.generators(range(7, 8)))
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_gaussian_arrives_at_its_mean_and_spread(name):
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, objective("epsilon"))
    steps = 1000 if name in ("ddpm", "euler_ancestral", "dpmpp_sde") else 100  # first order in their noise
    x = final(denoiser, name, steps, seeds.generators(range(16)))
    assert x.mean().item() == pytest.approx(0.3, abs=0.02)
    assert x.std().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_the_first_x0_is_the_tweedie_estimate(denoiser, name):
    """x0 of the first step equals (x_t - sigma eps) / alpha, written out."""
    schedule = TimestepSchedule(built(denoiser.scheduler, name), 10)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    step = next(iter(trajectory(denoiser, schedule, x, seeds.generators(range(1)))))
    abar = denoiser.scheduler.alphas_cumprod[round(float(step.t))].double()
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
        assert built.config.prediction_type == ("epsilon" if name == "pndm" else "v_prediction")
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


def test_sampling_leaves_the_training_scheduler_alone(denoiser):
    before = denoiser.scheduler.timesteps.clone()
    final(denoiser, "ddpm", 5, seeds.generators(range(1)))
    assert torch.equal(denoiser.scheduler.timesteps, before)


DETERMINISTIC = ["pndm", "euler", "heun", "lms", "kdpm2", "dpmpp_2m", "unipc", "deis"]


@pytest.fixture(scope="module")
def smooth():
    """A tiny real UNet without clipping, and the image that 1000 steps of DDIM generate with it."""
    denoiser = Denoiser(shallow_unet().eval(), DDPMScheduler(clip_sample=False), objective("epsilon"))
    return denoiser, final(denoiser, "ddim", 1000, seeds.generators(range(3, 5)))


@pytest.mark.proof  # 1,300 forward passes each
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_ever_more_steps_lead_to_ddims_image(smooth, name):
    denoiser, limit = smooth
    distances = [
        (final(denoiser, name, steps, seeds.generators(range(3, 5))) - limit).square().mean().sqrt().item()
        / limit.std().item()
        for steps in (8, 40, 250)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.05


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_step_is_one_scheduler_step_and_x_is_variance_preserving(name, monkeypatch):
    """x during sampling has the spread of alpha x_0 + sigma eps, not that of a scheduler's own scaling."""
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, objective("epsilon"))
    schedule = TimestepSchedule(built(training, name), 40)
    kind, calls = type(schedule.scheduler), []
    real = kind.step
    monkeypatch.setattr(kind, "step", lambda self, *a, **k: calls.append(1) or real(self, *a, **k))
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    steps = list(trajectory(denoiser, schedule, x, seeds.generators(range(4))))
    assert len(calls) == len(steps) == schedule.evaluations([(0, len(schedule))])
    assert [step.i for step in steps] == list(range(len(steps)))
    middle = steps[len(steps) // 3]
    after = next(step for step in steps[middle.i :] if float(step.t) < float(middle.t))
    t = after.t.view(1)
    expected = (denoiser.noise.alpha(t) ** 2 * 0.2**2 + denoiser.noise.sigma(t) ** 2).sqrt().item()
    assert steps[after.i - 1].x.std().item() == pytest.approx(expected, rel=0.05)


BY_CLASS = ["PNDMScheduler", "SASolverScheduler", "KDPM2AncestralDiscreteScheduler", "DDIMParallelScheduler"]


def spread(name, segments_of, prediction="epsilon"):
    """(mean, std) that the Gaussian of mean 0.3 and std 0.2 arrives at by these segments."""
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, objective("epsilon"))
    schedule = TimestepSchedule(built(training, name), 100)
    generators = seeds.generators(range(16))
    x = seeds.noise(generators, (3, 16, 16), "cpu")
    for step in trajectory(denoiser, schedule, x, generators, segments_of(len(schedule))):
        last = step.x
    return last.mean().item(), last.std().item()


@functools.cache
def straightforward(name):
    return spread(name, lambda n: [(0, n)])


LENGTHS = [
    pytest.param(name, length, marks=[pytest.mark.proof] * (length > 1 and name not in ("ddim", "heun", "pndm")))
    for name in [*schedulers.SCHEDULERS, *BY_CLASS]
    for length in (1, 10)
]


@pytest.mark.parametrize(("name", "length"), LENGTHS)
def test_starting_again_is_as_exact_as_a_first_order_solver(name, length):
    """Taken twice in segments without history, no scheduler is worse than DDIM is in one go."""
    _, of_ddim = straightforward("ddim")
    _, straight = straightforward(name)
    mean, std = spread(name, lambda n: timesteps.repeat_segments([(0, n)], 2, length))
    assert mean == pytest.approx(0.3, abs=0.02)
    assert abs(std - 0.2) < max(abs(of_ddim - 0.2), abs(straight - 0.2)) + 0.02


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_model_that_predicts_x0_samples_with_every_scheduler(name):
    """The same function of x_t given as x_0 and as eps gives the same image (some schedulers read no x_0)."""
    by_eps = DDPMScheduler(clip_sample=False)
    by_x0 = DDPMScheduler(clip_sample=False, prediction_type="sample")
    gaussian = Gaussian(by_eps.alphas_cumprod, 0.3, 0.2)

    class AsX0(Gaussian):
        def forward(self, x, t, return_dict=False):
            (eps,) = gaussian(x, t)
            t = torch.as_tensor(t).view(1)
            return ((x - noise.sigma(t) * eps) / noise.alpha(t),)

    ours = Denoiser(gaussian, by_eps, objective("epsilon"))
    noise = ours.noise
    other = Denoiser(AsX0(by_eps.alphas_cumprod, 0.3, 0.2), by_x0, objective("sample"))
    torch.testing.assert_close(
        final(other, name, 30, seeds.generators(range(2))),
        final(ours, name, 30, seeds.generators(range(2))),
        rtol=0,
        atol=5e-3,
    )


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_gaussian_started_halfway_arrives_too(name):
    """From images of the right law, noised to half of T: a scheduler can start at any step."""
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, objective("epsilon"))
    schedule = TimestepSchedule(built(training, name), 200)
    generators = seeds.generators(range(16))
    x0 = 0.3 + 0.2 * seeds.noise(generators, (3, 16, 16), "cpu")
    first = len(schedule) // 2
    x = denoiser.noise.add(x0, seeds.noise(generators, (3, 16, 16), "cpu"), schedule.timestep(first).view(1))
    for step in trajectory(denoiser, schedule, x, generators, [(first, len(schedule))]):
        last = step.x
    assert last.mean().item() == pytest.approx(0.3, abs=0.01)
    assert last.std().item() == pytest.approx(0.2, abs=0.03)


def test_pndm_adds_up_eps_whatever_the_model_predicts():
    """A v model and an eps model of the same Gaussian give the same image, also in few steps."""
    by_v = DDPMScheduler(clip_sample=False, prediction_type="v_prediction")
    gaussian = Gaussian(by_v.alphas_cumprod, 0.3, 0.2)
    ours = Denoiser(gaussian, DDPMScheduler(clip_sample=False), objective("epsilon"))

    class AsV(Gaussian):
        def forward(self, x, t, return_dict=False):
            (eps,) = gaussian(x, t)
            alpha, sigma = ours.noise.alpha(t.view(1)), ours.noise.sigma(t.view(1))
            return (alpha * eps - sigma * (x - sigma * eps) / alpha,)

    other = Denoiser(AsV(by_v.alphas_cumprod, 0.3, 0.2), by_v, objective("v_prediction"))
    pair = [final(denoiser, "pndm", 5, seeds.generators(range(2))) for denoiser in (ours, other)]
    torch.testing.assert_close(*pair, rtol=0, atol=5e-3)


def test_segments_are_stretches_gone_through_again(denoiser):
    assert timesteps.repeat_segments([(0, 25)], 2, 10) == [(0, 10), (0, 10), (10, 20), (10, 20), (20, 25), (20, 25)]
    assert timesteps.repeat_segments([(3, 5)], 3) == [(3, 4)] * 3 + [(4, 5)] * 3
    schedule = TimestepSchedule(schedulers.build(denoiser.scheduler, "heun"), 6)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    segments = [(0, 3), (1, 6)]
    steps = list(trajectory(denoiser, schedule, x, seeds.generators(range(1)), segments))
    assert len(steps) == schedule.evaluations(segments) == 6 + 9


def test_ddims_eta_1_is_as_noisy_as_ddpm():
    """eta=1: the variance of DDPM's posterior (Song et al. 2021); eta=0 repeats to the bit."""
    denoiser = Denoiser(tiny_unet().eval(), DDPMScheduler(clip_sample=False), objective("epsilon"))
    stock = DDIMPipeline(denoiser.unet, DDIMScheduler.from_config(DDPMScheduler(clip_sample=False).config))
    ours = (
        pixels.to_uint8(final(denoiser, "ddim", 6, seeds.generators(range(5, 7)), eta=1.0)).permute(0, 2, 3, 1).numpy()
    )
    assert (ours == stock_pixels(stock, 2, num_inference_steps=6, eta=1.0)).all()
    with pytest.raises(UserError, match="use scheduler=ddim"):
        schedulers.build(DDPMScheduler(), "heun", eta=0.5)


def test_what_is_the_models_own_cannot_be_set_and_late_starts_give_a_warning():
    with pytest.raises(UserError, match="the model's own"):
        schedulers.build(DDPMScheduler(), "ddim", prediction_type="sample")
    with pytest.raises(UserError, match="skip_prk_steps"):
        schedulers.build(DDPMScheduler(), "pndm", skip_prk_steps=False)
    with pytest.raises(UserError, match="zero terminal SNR"):
        schedulers.build(DDPMScheduler(rescale_betas_zero_snr=True), "heun")
    ddim = schedulers.build(DDPMScheduler(), "ddim")
    assert "t=500 of 1000" in TimestepSchedule(ddim, 501).warning()
    assert TimestepSchedule(ddim, 500).warning() is None
    assert TimestepSchedule(ddim, 40).warning() is None


CLASSES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name != "Scheduler")


@pytest.mark.parametrize("name", CLASSES)
def test_any_scheduler_class_of_diffusers_samples_or_is_refused_in_a_sentence(name):
    """Those that sample from a DDPM noise schedule arrive at the Gaussian; every other one is refused by name."""
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, objective("epsilon"))
    scheduler, refusal = None, ""
    try:
        scheduler = schedulers.build(training, name)
    except UserError as error:
        refusal = str(error)
    if scheduler is None:
        assert name in refusal
        assert "\n" not in refusal
        assert not any(name == kind for kind, _ in schedulers.SCHEDULERS.values())
        return
    x = sample(denoiser, scheduler, 50, seeds.generators(range(4)), (16, 16))
    assert x.mean().item() == pytest.approx(0.3, abs=0.05)
    if name not in ("LCMScheduler", "TCDScheduler"):  # these are for distilled models
        assert 0.13 < x.std().item() < 0.25


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "DDIMInverseScheduler"])
def test_other_processes_are_refused(name):
    with pytest.raises(UserError, match="another kind of model"):
        schedulers.build(DDPMScheduler(), name)


def test_a_fractional_timestep_has_the_level_between_its_neighbours(denoiser):
    noise = denoiser.noise
    whole, between = torch.tensor([500, 501]), torch.tensor([500.0, 500.25, 501.0])
    assert torch.equal(noise.sigma(between)[[0, 2]], noise.sigma(whole))
    ratio = lambda t: (noise.sigma(t) / noise.alpha(t)).double().log().flatten()  # noqa: E731
    low, middle, high = ratio(between)
    assert middle.item() == pytest.approx(0.75 * low.item() + 0.25 * high.item(), abs=1e-5)
    total = noise.alpha(between) ** 2 + noise.sigma(between) ** 2
    torch.testing.assert_close(total, torch.ones_like(total))
    assert noise.snr(between)[1].item() == pytest.approx(float((-2 * middle).exp()), rel=1e-4)


ONE_STEP = [name for name in schedulers.SCHEDULERS if name != "deis"]


@pytest.mark.parametrize("name", [*ONE_STEP, "KDPM2AncestralDiscreteScheduler"])
def test_one_step_is_the_tweedie_estimate_at_pure_noise(name):
    """E[x_0 | x_T] = m + a s^2 (x - a m) / (a^2 s^2 + sigma^2) of data ~ N(m, s^2), not the noise as it came."""
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Gaussian(training.alphas_cumprod, 0.3, 0.2), training, objective("epsilon"))
    a = training.alphas_cumprod[-1].sqrt()
    noise = seeds.noise(seeds.generators(range(2)), (3, 16, 16), "cpu")
    expected = 0.3 + a * 0.04 * (noise - a * 0.3) / (a * a * 0.04 + 1 - a * a)
    tolerance = 0.05 if name == "pndm" else 1e-3  # PNDM ends at the noise level of t = 0
    torch.testing.assert_close(final(denoiser, name, 1, seeds.generators(range(2))), expected, rtol=0, atol=tolerance)


def test_one_step_that_a_scheduler_cannot_make_is_refused():
    with pytest.raises(UserError, match="steps=1"):
        TimestepSchedule(built(DDPMScheduler(), "deis"), 1)


def test_timesteps_that_are_not_finite_are_refused_before_sampling():
    """This scheduler takes the root of a difference that rounds to either side of zero, so that CPUs differ in the step
    counts at which it is NaN."""
    name = "KDPM2AncestralDiscreteScheduler"
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    not_finite = 0
    for steps in range(2, 60):
        stock = KDPM2AncestralDiscreteScheduler.from_config(cosine.config)
        stock.set_timesteps(steps)
        if stock.timesteps.isfinite().all():
            TimestepSchedule(schedulers.build(cosine, name), steps)
            continue
        not_finite += 1
        with pytest.raises(UserError, match=f"steps={steps}: {name} computes timesteps that are not"):
            TimestepSchedule(schedulers.build(cosine, name), steps)
    assert not_finite


LEFT = {
    "use_flow_sigmas": True,
    "use_exponential_sigmas": True,
    "use_beta_sigmas": True,
    "solver_order": 3,
    "lower_order_final": False,
    "algorithm_type": "sde-dpmsolver++",
    "final_sigmas_type": "sigma_min",
}


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_what_a_folder_brings_for_another_sampler_is_dropped(name):
    training = DDPMScheduler(clip_sample=False)
    left = DDPMScheduler.from_config({**training.config, **LEFT})
    plain, ours = (schedulers.build(scheduler, name) for scheduler in (training, left))
    assert all(ours.config[key] == value for key, value in plain.config.items() if not key.startswith("_"))


def test_spacings_that_are_typed_take_the_place_of_karras():
    stock = diffusers.EulerDiscreteScheduler(
        beta_start=0.0001, beta_end=0.02, timestep_spacing="linspace", use_exponential_sigmas=True
    )
    ours = schedulers.build(DDPMScheduler(), "euler", use_exponential_sigmas=True)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(10)
    torch.testing.assert_close(ours.sigmas, stock.sigmas)
    with pytest.raises(UserError, match=r"scheduler\.lower_order_final=false"):
        schedulers.build(DDPMScheduler(), "unipc", lower_order_final=False)
