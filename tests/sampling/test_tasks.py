"""img2img, inpaint, invert, morph, blend: each against what defines it, on every scheduler where that is promised."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ClosedForm, tiny_unet
from diffusers import DDPMScheduler
from PIL import Image

from chrysalis.data import pixels
from chrysalis.data.synthetic.domains import draw as drawn_butterfly
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import mixing, seeds
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder, lora
from chrysalis.sampling import schedulers
from chrysalis.sampling.edit import ImageToImage, Inpaint, Invert
from chrysalis.sampling.guidance import model_pairs
from chrysalis.sampling.loop import Step, sample, trajectory
from chrysalis.sampling.morph import Blend, Morph
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.sampling.timesteps import TimestepSchedule
from chrysalis.system.errors import UserError


def sampler_of(name="ddim", steps=10, **settings) -> Sampler:
    training = DDPMScheduler(clip_sample=False, prediction_type="v_prediction")
    denoiser = Denoiser(tiny_unet().eval(), training, objective("v_prediction"))
    return Sampler(denoiser, TimestepSchedule(schedulers.build(training, name, **settings), steps), (16, 16))


def final(task: Generate, sampler: Sampler, n=2, seed=0) -> torch.Tensor:
    *_, last = steps_of(task, sampler, task.specs(seed, n))
    return last.x


def steps_of(task: Generate, sampler: Sampler, specs: list[SampleSpec]) -> Iterator[Step]:
    generators = seeds.generators(spec.seed for spec in specs)
    x = task.start(sampler, specs, generators)
    hook, segments = task.hook(sampler, x), task.segments(sampler)
    return trajectory(sampler.denoiser, sampler.schedule, x, generators, segments, hook)


@pytest.fixture
def image(tmp_path):
    Image.fromarray(drawn_butterfly("butterflies", 5, size=16).image).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def mask(tmp_path):
    """White, to be generated anew, in the right half."""
    Image.fromarray(np.tile(np.repeat(np.uint8([0, 255]), 8), (16, 1))).save(tmp_path / "mask.png")
    return str(tmp_path / "mask.png")


def signed(path: str) -> torch.Tensor:
    return pixels.to_signed(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None])


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_img2img_keeps_more_of_the_image_the_less_strength(image, name):
    sampler = sampler_of(name, 20)
    distances = [
        (final(ImageToImage(image, strength), sampler, n=4) - signed(image)).square().mean().item()
        for strength in (0.1, 0.4, 0.9)
    ]
    assert distances[0] < distances[1] < distances[2]
    assert distances[0] < 0.4 * distances[2]


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_img2img_starts_at_the_level_of_its_first_step(image, name):
    """x = alpha x_0 + sigma eps at the timestep that the scheduler then asks for, eps the seed's own noise."""
    sampler, task = sampler_of(name, 20), ImageToImage(image, 0.5)
    specs = task.specs(7, 1)
    x, step = task.start(sampler, specs, seeds.generators([7])), next(steps_of(task, sampler, specs))
    t = sampler.unguided.noise
    eps = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    level = step.t.view(1)
    torch.testing.assert_close(x, t.alpha(level) * signed(image) + t.sigma(level) * eps)
    assert 400 < float(step.t) < 600  # half of T, whatever the scheduler's spacing


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_inpaint_keeps_every_known_pixel_and_generates_the_others(image, mask, name):
    sampler = sampler_of(name, 10)
    out = final(Inpaint(image, mask, jump=3, resamplings=2), sampler)
    assert torch.equal(pixels.to_uint8(out)[..., :8], pixels.to_uint8(signed(image)).expand(2, -1, -1, -1)[..., :8])
    assert (out[..., 8:] - signed(image)[..., 8:]).abs().mean() > 0.05
    assert (out[0] - out[1])[..., 8:].abs().mean() > 0.01


def test_a_mask_of_another_shape_is_refused(image, tmp_path):
    Image.new("L", (32, 16), 0).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match="the same shape"):
        Inpaint(image, str(tmp_path / "wide.png"))


def test_inpaint_goes_through_every_stretch_again(image, mask):
    sampler = sampler_of("dpmpp_2m", 10)
    task = Inpaint(image, mask, jump=4, resamplings=3)
    assert task.segments(sampler) == [(0, 4)] * 3 + [(4, 8)] * 3 + [(8, 10)] * 3
    assert Inpaint(image, mask, resamplings=1).segments(sampler) == [(0, 10)]


def test_resampling_lets_the_new_part_join_the_old_one(image, mask):
    """Data that is one grey per image: the generated half takes the known half's grey, more so with more resamplings.

    The exact denoiser of N(0, 1) greys: E[x_0 | x_t] = alpha N mean(x_t) / (alpha^2 N + sigma^2), for all N pixels.
    """

    class OneGrey(ClosedForm):
        def forward(self, x, t, return_dict=False):
            a, s, n = self.abar[t].sqrt(), (1 - self.abar[t]).sqrt(), x[0].numel()
            x0 = (a * n * x.mean(dim=(1, 2, 3), keepdim=True) / (a * a * n + s * s)).expand_as(x)
            return ((x - a * x0) / s,)

    Image.new("RGB", (16, 16), (230, 230, 230)).save(image)
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(OneGrey(training.alphas_cumprod), training, objective("epsilon"))
    sampler = Sampler(denoiser, TimestepSchedule(schedulers.build(training, "ddim"), 50), (16, 16))
    grey = signed(image).mean().item()
    errors = [
        (final(Inpaint(image, mask, 5, times), sampler, n=8)[..., 8:].mean(dim=(1, 2, 3)) - grey).abs().median().item()
        for times in (1, 4)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.1


def test_invert_reconstructs_the_image(image):
    """From the inverted noise DDIM generates the very image: 40 dB and more, and corrections pay."""
    sampler = sampler_of("ddim", 50)
    psnr = {}
    for corrections in (0, 3):
        out = final(Invert(image, corrections), sampler, n=1)
        psnr[corrections] = 10 * math.log10(4 / (out - signed(image)).square().mean().item())
    assert psnr[3] > max(40, psnr[0])
    with pytest.raises(UserError, match="use scheduler=ddim"):
        final(Invert(image), sampler_of("heun"), n=1)
    with pytest.raises(UserError, match="use scheduler=ddim"):
        final(Invert(image), sampler_of("ddim", eta=1.0), n=1)


def test_morph_goes_over_the_seeds_along_the_arc():
    sampler, task = sampler_of(), Morph(frames=4)
    images = task.specs(5, 3)
    assert [p.name for p in images] == [f"frame_{k:05d}" for k in range(9)]
    starts = task.start(sampler, images, seeds.generators(spec.seed for spec in images))
    for k, seed in ((0, 5), (4, 6), (8, 7)):
        own = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(starts[k], own)
    lengths = starts.flatten(1).norm(dim=1)
    assert lengths.min() > 0.97 * lengths[[0, 4, 8]].min()
    whole = final(task, sampler, n=3, seed=5)
    alone = sample(sampler.denoiser, sampler.schedule.scheduler, 10, seeds.generators(range(6, 7)), (16, 16))
    torch.testing.assert_close(whole[4:5], alone, rtol=1e-4, atol=1e-4)
    assert len(Morph(frames=4, loop=True).specs(0, 3)) == 12
    with pytest.raises(UserError, match="at least 2"):
        task.specs(0, 1)


def test_slerp_and_lerp_are_the_textbooks():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    third = mixing.slerp(a, b, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)]))
    torch.testing.assert_close(mixing.slerp(a, a, 0.5), a)
    base, other = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}
    torch.testing.assert_close(mixing.lerp(base, other, 0.25)["w"], torch.tensor([1.5, 3.0]))
    assert mixing.lerp(base, other, 1)["w"] is other["w"]


@pytest.fixture
def two_models(tmp_path):
    """A base model and a `fine-tuned` one, as folders."""
    from diffusers import DDPMPipeline

    training = DDPMScheduler(clip_sample=False, prediction_type="v_prediction")
    base, tuned = tiny_unet(0), tiny_unet(0)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight += 0.05 * torch.randn_like(weight)
    for name, unet in (("base", base), ("tuned", tuned)):
        DDPMPipeline(unet=unet, scheduler=training).save_pretrained(tmp_path / name)
    return folder.load(str(tmp_path / "base")), folder.load(str(tmp_path / "tuned"))


def test_blend_is_each_model_at_its_end_and_the_mean_of_weights_between(two_models):
    base, tuned = two_models
    by_hand = {"0": copy.deepcopy(base.unet), "1": copy.deepcopy(tuned.unet), "0.5": copy.deepcopy(base.unet)}
    with torch.no_grad():
        for p, q in zip(by_hand["0.5"].parameters(), tuned.unet.parameters(), strict=True):
            p.copy_((p + q) / 2)
    task = Blend(tuned, base.origin, ratios=[0, 0.5, 1])
    denoiser = Denoiser(tuned.unet.eval(), tuned.scheduler, objective("v_prediction"))
    schedule = TimestepSchedule(schedulers.build(tuned.scheduler, "ddim"), 5)
    sampler = Sampler(denoiser, schedule, (16, 16))
    images = task.specs(3, 1)
    assert [p.blend_ratio for p in images] == [0, 0.5, 1]
    for image, unet in zip(images, (by_hand[k] for k in ("0", "0.5", "1")), strict=True):
        *_, last = steps_of(task, sampler, [image])
        other = Denoiser(unet.eval(), tuned.scheduler, objective("v_prediction"))
        expected = sample(other, schedule.scheduler, 5, seeds.generators(range(3, 4)), (16, 16))
        torch.testing.assert_close(last.x, expected, rtol=1e-4, atol=1e-5)


def test_a_lora_that_was_not_merged_blends_as_its_merged_weights(two_models):
    """In either place; domain guidance takes it as it is, since it asks for outputs and not for weights."""
    base, tuned = two_models
    adapted = lora.LoRA(rank=2).inject(tuned.unet)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.fill_(0.1)
    merged = {name: weight.clone() for name, weight in lora.plain(adapted).state_dict().items()}
    lora.save(adapted, Path(tuned.origin) / "lora")
    apart = folder.load(tuned.origin)
    task = Blend(apart, base.origin, ratios=[0, 1])
    assert not lora.injected(apart.unet)
    for weights_of in (task.own, Blend(base, tuned.origin, ratios=[0, 1]).base):
        assert list(weights_of) == list(merged)
        assert all(torch.equal(weight, merged[name]) for name, weight in weights_of.items())
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([500])
    other = model_pairs.domain(base, tuned.origin).other
    base.unet.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(other(x, t).out, base.unet.eval()(x, t).sample, rtol=0, atol=1e-5)


def test_blend_refuses_what_cannot_blend(two_models, tmp_path):
    base, tuned = two_models
    with pytest.raises(UserError, match=r"give task\.base=FOLDER"):
        Blend(tuned)
    tiny_unet(block_out_channels=(8, 8)).save_pretrained(tmp_path / "other" / "unet")
    tuned.scheduler.save_pretrained(tmp_path / "other" / "scheduler")
    with pytest.raises(UserError, match="cannot blend"):
        Blend(tuned, str(tmp_path / "other"))
    for ratios in ([], [0.3333, 0.33334]):
        with pytest.raises(UserError, match=r"task\.ratios"):
            Blend(tuned, base.origin, ratios=ratios)
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "base" / "scheduler")
    with pytest.raises(UserError, match="other noise levels"):
        Blend(tuned, base.origin)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: ImageToImage("nowhere.png"), "nowhere.png is not an image"),
    ],
)
def test_wrong_tasks(image, make, message):
    with pytest.raises(UserError, match=message):
        make(image)


def test_recurrence_goes_through_each_step_again():
    sampler = sampler_of(steps=4)
    sampler.recurrence = 3
    assert Generate().segments(sampler) == [(k, k + 1) for k in range(4) for _ in range(3)]
    assert SampleSpec("seed_00007", 7) == Generate().specs(7, 1)[0]
