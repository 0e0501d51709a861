"""Classifier-free guidance against its formula, diffusers' own, and a model whose guided distribution is known."""

import math
import re

import pytest
import torch
from conftest import built
from diffusers import DDPMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from tiny_models import Gaussian, ToHalf, conditional, example_conditions, model_of

from chrysalis.conditions.request import Request
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.guidance.model_pairs import ClassifierFree, cfg
from chrysalis.sampling.loop import sample
from chrysalis.system.errors import UserError


def inputs():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(300)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("w", [0, 1, 3])
def test_it_is_null_plus_w_of_the_difference(prediction, w):
    """In the model's own prediction, as the paper and diffusers write it: linear at a given x_t."""
    denoiser, (x, t), cond = conditional(prediction=prediction), inputs(), example_conditions()
    with torch.no_grad():
        out = Guided(denoiser, {"cfg": cfg(model_of(denoiser), scale=w)})(x, t, cond).out
        own, null = denoiser(x, t, cond).out, denoiser(x, t).out
    if w == 1:
        assert torch.equal(out, own)
    torch.testing.assert_close(out, null + w * (own - null), rtol=1e-4, atol=1e-5)
    assert (own - null).abs().max() > 1e-3


def test_a_negative_stands_where_the_null_stood():
    denoiser, (x, t), cond = conditional(("label",)), inputs(), example_conditions()
    with torch.no_grad():
        guide = cfg(model_of(denoiser), negative={"label": "fly", "text": None}, scale=2.5)
        out = Guided(denoiser, {"cfg": guide})(x, t, cond).out
        away = denoiser(x, t, {"label": torch.full((4,), 2)}).out
        torch.testing.assert_close(out, away + 2.5 * (denoiser(x, t, cond).out - away), rtol=1e-4, atol=1e-5)


def test_it_acts_in_its_interval_alone():
    denoiser, (x, t), cond = conditional(), inputs(), example_conditions()
    level = float(denoiser.noise.sigma(t.view(1)) / denoiser.noise.alpha(t.view(1)))
    with torch.no_grad():
        own = denoiser(x, t, cond).out
        for interval, acts in (((None, level / 2), False), ((level / 2, level * 2), True), ((level * 2, None), False)):
            guide = cfg(model_of(denoiser), scale=3, interval=interval)
            assert torch.equal(Guided(denoiser, {"cfg": guide})(x, t, cond).out, own) is not acts


def test_rescaling_is_diffusers_own_of_x0():
    denoiser, (x, t), cond = conditional(prediction="sample"), inputs(), example_conditions()
    with torch.no_grad():
        own, null = denoiser(x, t, cond).out, denoiser(x, t).out
        for phi in (0.0, 0.7, 1.0):
            out = Guided(denoiser, {"cfg": cfg(model_of(denoiser), scale=4, rescale=phi)})(x, t, cond).out
            expected = rescale_noise_cfg(null + 4 * (own - null), own, guidance_rescale=phi)
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


class TwoGaussians(Gaussian):
    """The exact eps of N(mean, std^2), where the mean is what the condition says."""

    def forward(self, x, t, mean):
        self.mean = mean.view(-1, 1, 1, 1)
        return super().forward(x, t)[0]


class Told(torch.nn.Module):
    """Stands for a conditioner: it has a mean, or the null, which is -0.1."""

    def forward(self, unet, x, t, cond):
        mean = (cond or {}).get("mean", torch.full((len(x),), -0.1))
        return unet(x, t, mean.double())


SLOW = ("ddpm", "euler_ancestral", "dpmpp_sde", "lms", "kdpm2", "heun")  # in 400 steps


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.proof] * (name in SLOW)) for name in schedulers.SCHEDULERS]
)
def test_every_scheduler_arrives_where_the_guided_formula_says(name):
    """For two Gaussians of one spread, null + w (cond - null) is the score of a Gaussian with mean m_0 + w (m_c - m_0).

    With an energy beside it the mean moves on towards what that asks for.
    """
    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(TwoGaussians(training.alphas_cumprod, None, 0.1), training, objective("epsilon"), Told())
    cond = {"mean": torch.tensor([0.1] * 4 + [0.2] * 4)}
    steps = 400 if name in SLOW else 60

    def drawn(terms):
        return sample(Guided(denoiser, terms), built(training, name), steps, seeds.generators(range(8)), (16, 16), cond)

    for w in (1.0, 2.0, 3.0):
        x = drawn({"cfg": ClassifierFree(denoiser, w)})
        for half, mean in ((x[:4], 0.1), (x[4:], 0.2)):
            assert half.mean().item() == pytest.approx(-0.1 + w * (mean + 0.1), abs=0.02)
        assert x[:4].std().item() == pytest.approx(0.1, abs=0.02)
    guided = drawn({"cfg": ClassifierFree(denoiser, 2.0)})[:4].mean().item()
    both = drawn({"cfg": ClassifierFree(denoiser, 2.0), "half": ToHalf(scale=2.0)})[:4].mean().item()
    assert guided + 0.01 < both < 0.52


def test_a_request_becomes_rows():
    request = Request(conditional(("label", "text", "vector")).conditioner, {}, "a model")
    assert request.n_rows == 1
    assert request.cond([0, 0], [1, 2], (16, 16), "cpu") == {}
    assert "label=NAME, or label=all for ant, bee, fly" in request.missing()
    conditioner = conditional(("label", "text", "vector")).conditioner
    given = {"label": "all", "text": "a red moth", "vector": [1, 2.5], "mask": None, "image": None}
    request = Request(conditioner, given, "a model")
    assert (request.n_rows, request.missing()) == (3, None)
    assert [request.row_name(k) for k in range(3)] == ["ant", "bee", "fly"]
    cond = request.cond([2, 0], [7, 8], (16, 16), "cpu")
    assert cond["label"].tolist() == [2, 0]
    assert cond["text"] == ("a red moth", "a red moth")
    assert cond["vector"].tolist() == [[1, 2.5], [1, 2.5]]


def test_masks_come_from_files_folders_and_drawings(tmp_path):
    from PIL import Image

    conditioner = conditional(("mask",)).conditioner
    for k in range(3):
        mask = Image.new("L", (32, 32), 0)
        mask.paste(255, (0, 0, 8 * (k + 1), 32))
        mask.save(tmp_path / f"{k}.png")
    one = Request(conditioner, {"mask": str(tmp_path / "1.png")}, "").cond([0], [5], (16, 16), "cpu")["mask"]
    assert torch.equal(one[0, 0], torch.tensor([1.0] * 8 + [-1.0] * 8).expand(16, 16))
    several = Request(conditioner, {"mask": str(tmp_path)}, "").cond([0] * 4, [0, 1, 2, 3], (16, 16), "cpu")["mask"]
    assert [(m > 0).float().mean().item() for m in several] == [0.25, 0.5, 0.75, 0.25]
    masks = Request(conditioner, {"mask": "butterflies"}, "").cond([0] * 2, [0, 1], (32, 32), "cpu")["mask"]
    assert set(masks.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize(
    ("names", "given", "says"),
    [
        (
            (),
            {"label": "ant"},
            "label=ant, but a model is unconditional: train a model with condition=label",
        ),
        (
            ("mask",),
            {"text": "red"},
            "text=red, but a model is conditioned on mask only: train a model with condition=text",
        ),
        (
            ("label",),
            {"label": "bea"},
            r"label=bea is unknown to this model: did you mean bee\? Choose from ant, bee, fly",
        ),
        (("label",), {"label": ["ant", "wasp"]}, "label=wasp is unknown"),
        (("label",), {"label": []}, r"label=\[\] is empty"),
        (
            ("text",),
            {"text": "green dragon"},
            "text=green dragon has no word that this model knows: choose from red, b",
        ),
        (("vector",), {"vector": [1]}, r"vector=\[1\] must be 2 numbers: \[span,mass\]"),
        (("vector",), {"vector": [1, "x"]}, "must be 2 numbers"),
        (("mask",), {"mask": "no.png"}, "mask=no.png is not an image that can be read"),
        (
            ("label", "text"),
            {"label": ["ant", "bee"], "text": ["red", "blue", "moth"]},
            "label has 2 values and another",
        ),
    ],
)
def test_a_wrong_request_is_refused(names, given, says):
    conditioner = conditional(names).conditioner if names else None
    with pytest.raises(UserError, match=says if "\\" in says else re.escape(says)):
        Request(conditioner, given, "a model")


def test_an_unknown_word_is_left_out_with_a_warning(capfd):
    Request(conditional(("text",)).conditioner, {"text": "a red dragon"}, "a model")
    assert "words that occur in no training caption are left out: a, dragon." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"negative": {"label": ["ant", "bee"]}}, "guidance.negative has a list of values: give one"),
        ({"negative": {"label": "wasp"}}, "guidance.negative.label=wasp is unknown"),
    ],
)
def test_wrong_settings_are_said(how, says):
    with pytest.raises(UserError, match=says):
        cfg(model_of(conditional(("label",))), **how)


def test_an_unconditional_model_cannot_be_guided_so(denoiser):
    with pytest.raises(UserError, match="guidance=cfg needs a conditional model, and a model is unconditional"):
        cfg(model_of(denoiser))


def test_rows_of_nan_are_nulls():
    """What stands for `not given` inside a batch equals what a model gets when nothing is given at all."""
    denoiser, (x, t) = conditional(("label", "vector", "mask")), inputs()
    nothing = {"label": torch.full((4,), -1), "vector": torch.full((4, 2), math.nan), "mask": torch.zeros(4, 1, 16, 16)}
    with torch.no_grad():
        assert torch.equal(denoiser(x, t, nothing).out, denoiser(x, t).out)
