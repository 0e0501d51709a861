"""Guidance by any function, on every scheduler: strength, invariances, closed forms, and the messages for mistakes."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ClosedForm, built, shallow_unet
from diffusers import DDPMScheduler
from PIL import Image
from tiny_models import ToHalf

from chrysalis.data import pixels
from chrysalis.data.synthetic.domains import draw as drawn_butterfly
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance import energies
from chrysalis.sampling.guidance.energies import Energy
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.guidance.model_pairs import Pair
from chrysalis.sampling.guidance.user_function import Classifier, Custom, Function
from chrysalis.sampling.loop import sample
from chrysalis.system.errors import UserError

SCALES = (0.0, 0.15, 0.4, 0.8)


def unclipped(seed=0, prediction="v_prediction") -> Denoiser:
    training = DDPMScheduler(clip_sample=False, prediction_type=prediction)
    return Denoiser(shallow_unet(seed).eval(), training, objective(prediction))


def final(denoiser, name="ddim", seed=0, n=4, steps=6):
    scheduler = built(getattr(denoiser, "denoiser", denoiser).scheduler, name)
    return sample(denoiser, scheduler, steps, seeds.generators(range(seed, seed + n)), (16, 16))


def brighter(denoiser: Denoiser) -> Denoiser:
    """A `fine-tuned` copy whose x_0 is brighter: the last bias moves eps down."""
    other = copy.deepcopy(denoiser)
    with torch.no_grad():
        other.unet.conv_out.bias -= 0.1
    return other


def term(kind: str, scale: float, denoiser: Denoiser):
    """(the denoiser that is guided, its one term, the energy of a result)."""
    if kind == "domain":
        return brighter(denoiser), Pair(denoiser, scale=scale), lambda x: -x.double().mean(dim=(1, 2, 3))
    energy = ToHalf(scale=scale, at=kind)
    return denoiser, energy, lambda x: (x.double() - 0.5).square().mean(dim=(1, 2, 3))


QUICK = ("ddim", "dpmpp_2m", "heun")
EVERY_KIND = [
    pytest.param(name, kind, marks=[pytest.mark.proof] * (kind != "x0" and name not in QUICK))
    for name in schedulers.SCHEDULERS
    for kind in ("x_t", "x0", "domain")
]


@pytest.mark.parametrize(("name", "kind"), EVERY_KIND)
def test_every_scheduler_with_every_kind_of_term(name, kind):
    """The energy of the result falls with the scale; scale 0 is unguided to the bit; a batch is its images."""
    base = unclipped()
    results = {}
    for scale in SCALES:
        denoiser, guide, energy = term(kind, scale, base)
        results[scale] = final(Guided(denoiser, {"e": guide}), name)
    plain = final(denoiser, name)
    assert torch.equal(results[0.0], plain)
    medians = [energy(results[scale]).median().item() for scale in SCALES]
    assert all(a > b for a, b in itertools.pairwise(medians)), medians
    alone = torch.cat([final(Guided(denoiser, {"e": guide}), name, seed=k, n=1) for k in (0, 3)])
    torch.testing.assert_close(alone, results[SCALES[-1]][[0, 3]], rtol=1e-3, atol=1e-3)


def predicted_by(denoiser, through, n=3, t=400):
    x_t = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(through):
        return denoiser(x_t.requires_grad_(through), torch.tensor(t))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_raw_at_x_t_is_classifier_guidance(prediction):
    """eps' = eps + scale sigma grad_{x_t} E (Dhariwal & Nichol 2021, alg. 2), by finite differences in float64."""
    denoiser = unclipped(prediction=prediction).double()
    denoiser.unet.to(torch.float64)
    guided = Guided(denoiser, {"e": ToHalf(scale=0.7, at="x_t", gradient="raw", largest_change=None)})
    t, x = torch.tensor(600), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    alpha, sigma = (f(t.view(1)).double() for f in (denoiser.noise.alpha, denoiser.noise.sigma))

    def eps_of(out, x):
        return {"epsilon": out, "v_prediction": alpha * out + sigma * x, "sample": (x - alpha * out) / sigma}[
            prediction
        ]

    def energy(x):
        eps = eps_of(denoiser.unet(x, t).sample, x)
        return (((x - sigma * eps) / alpha - 0.5).square().mean() / 2).item()

    with torch.no_grad():
        change = eps_of(guided(x, t).out.double(), x) - eps_of(denoiser.unet(x, t).sample, x)
        for place in ((0, 0, 3, 5), (0, 2, 10, 1)):
            step = torch.zeros_like(x)
            step[place] = 1e-4
            slope = (energy(x + step) - energy(x - step)) / 2e-4
            expected = 0.7 * sigma.item() * slope
            assert change[place].item() == pytest.approx(expected, rel=2e-2, abs=1e-6)


def test_at_x0_one_unit_of_scale_reaches_the_target():
    """At sigma = 1 a quadratic energy changes x0 by scale times the distance to its minimum, at any size of image."""
    denoiser = unclipped()
    predicted = predicted_by(denoiser, through=False, t=999)
    change = ToHalf(scale=1.0, largest_change=None).push(predicted, None, 1.0).change
    torch.testing.assert_close(predicted.x0 + change, torch.full_like(change, 0.5), rtol=1e-3, atol=4e-2)
    half = ToHalf(scale=0.5, largest_change=None).push(predicted, None, 0.5).change
    torch.testing.assert_close(half, change / 2)


def test_both_ways_push_alike_and_clip_bounds_them():
    denoiser = unclipped()
    rms = {}
    for at in ("x0", "x_t"):
        push = ToHalf(at=at, largest_change=None).push(predicted_by(denoiser, at == "x_t"), None, 0.3)
        rms[at] = push.change.square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(rms["x0"], rms["x_t"], rtol=1e-3, atol=0)
    clipped = ToHalf(at="x_t", largest_change=0.01).push(predicted_by(denoiser, True), None, 0.3).change
    torch.testing.assert_close(clipped.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((3,), 0.01))
    sigma = denoiser.noise.sigma(torch.tensor([400])).item()
    unit = ToHalf(gradient="unit").push(predicted_by(denoiser, False), None, 0.3).change
    torch.testing.assert_close(unit.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((3,), 0.3 * sigma**2))


def test_interval_and_schedule():
    noise = unclipped().noise
    t = torch.tensor(500)
    alpha, sigma = noise.alpha(t.view(1)).item(), noise.sigma(t.view(1)).item()
    assert ToHalf(scale=2, schedule="early").strength(t, noise) == pytest.approx(2 * sigma)
    assert ToHalf(scale=2, schedule="late").strength(t, noise) == pytest.approx(2 * alpha)
    ratio = sigma / alpha
    assert ToHalf(scale=2, interval=(ratio * 0.99, ratio * 1.01)).strength(t, noise) == 2
    assert ToHalf(scale=2, interval=(ratio * 1.01, None)).strength(t, noise) == 0
    assert ToHalf(scale=2, interval=(None, ratio * 0.99)).strength(t, noise) == 0


def test_outside_its_interval_guidance_changes_no_bit():
    denoiser = unclipped()
    guided = Guided(denoiser, {"e": ToHalf(scale=1.0, interval=(1e6, None))})
    assert torch.equal(final(guided), final(denoiser))
    assert guided.records == []


def test_the_loss_sees_x0_unclipped_and_the_unet_is_frozen():
    seen = []

    class Watching(ToHalf):
        def loss(self, x0, t, cond):
            seen.append(x0.detach().abs().max().item())
            assert t.shape == (len(x0),)
            return super().loss(x0, t, cond)

    denoiser = unclipped()
    final(Guided(denoiser, {"e": Watching(scale=0.1, at="x_t")}))
    assert max(seen) > 1
    assert not any(p.requires_grad or p.grad is not None for p in denoiser.parameters())


def test_smoothing_averages_over_noisy_copies():
    """For E = (x - c)^2 / 2 a pixel, -log mean exp(-E) over many copies is known: x, c and N(0, sigma^2) convolved."""

    class OnePixel(Energy):
        def loss(self, x0, t, cond):
            return (x0[:, 0, 0, 0] - 0.5).square() / 2

    denoiser = unclipped()
    predicted = predicted_by(denoiser, False, t=300)
    sigma = denoiser.noise.sigma(torch.tensor([300])).item()
    push = OnePixel(scale=1.0, smoothing=4000).push(predicted, None, 1.0)
    expected = (predicted.x0[:, 0, 0, 0] - 0.5).square() / (2 * (1 + sigma**2)) + math.log(1 + sigma**2) / 2
    torch.testing.assert_close(push.loss, expected, rtol=0.1, atol=0.05)
    again = OnePixel(scale=1.0, smoothing=4000).push(predicted, None, 1.0)
    assert torch.equal(push.change, again.change)


def test_records_tell_each_terms_loss_gradient_and_fraction():
    denoiser = unclipped()
    terms = {"half": ToHalf(scale=0.3), "mirror": energies.Symmetry(scale=0.3, at="x_t")}
    guided = Guided(denoiser, terms)
    final(guided, "heun", steps=5)
    assert [(step, name) for step, _, name, *_ in guided.records] == [(k, name) for k in range(9) for name in terms]
    of_step = {name: figures for step, _, name, *figures in guided.records if step == 3}
    fractions = np.array([of_step[name][2] for name in terms])
    assert fractions.shape == (2, 4)
    assert ((fractions > 0) & (fractions < 1)).all()
    assert (fractions.sum(0) < 1).all()
    assert all(of_step["half"][0])
    guided.begin()
    assert guided.records == []


@pytest.mark.proof  # 1,200 forward passes
def test_guidance_does_not_depend_on_the_number_of_steps():
    """The guided ODE has one solution: 60 steps of a second-order solver and 250 of DDIM meet."""
    guided = Guided(unclipped(), {"e": ToHalf(scale=0.5)})
    a, b = final(guided, "dpmpp_2m", steps=60), final(guided, "ddim", steps=250)
    unguided = final(unclipped(), "ddim", steps=250)
    assert (a - b).square().mean().sqrt() < 0.1 * (b - unguided).square().mean().sqrt()


# ---- the shipped energies, each against its own meaning


def guided_by(energy, denoiser=None, n=4):
    denoiser = denoiser or unclipped(prediction="v_prediction")
    return final(Guided(denoiser, {"e": energy}), n=n), final(denoiser, n=n)


def median_change(before, after, measure):
    return np.median([measure(a) for a in after]) - np.median([measure(b) for b in before])


def luma(x):
    return float(np.asarray(Image.fromarray(pixels.to_uint8(x[None])[0].permute(1, 2, 0).numpy()).convert("L")).mean())


@pytest.mark.parametrize("at", ["x0", "x_t"])
def test_brightness_and_symmetry(at):
    after, before = guided_by(energies.Brightness(1.0, scale=0.8, at=at))
    assert median_change(before, after, luma) > 10
    after, before = guided_by(energies.Symmetry(scale=2.0, at=at))
    assert median_change(before, after, lambda x: float((x - x.flip(-1)).abs().mean())) < -0.02


def test_colour_moves_the_chroma_and_leaves_the_luma():
    energy = energies.Colour("ff0000", scale=1.0)
    x0 = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = energies.Colour("red", scale=1.0)
    assert torch.equal(energy.loss(x0, None, None), exact.loss(x0, None, None))
    brighter_ = energy.loss(x0 + 0.3, None, None)
    torch.testing.assert_close(brighter_, energy.loss(x0, None, None))
    red = pixels.to_signed(torch.tensor([255, 0, 0])).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert energy.loss(red, None, None).item() < 1e-12
    after, before = guided_by(energy)
    assert median_change(before, after, lambda x: float(x[0].mean() - x[1:].mean())) > 0.1


def test_a_palette_is_the_set_of_its_colours(tmp_path):
    """An image is at distance 0 of its own colours in any order, and nearer to them after guidance."""
    rng = np.random.default_rng(0)
    palette = rng.choice(np.array([[250, 240, 30], [20, 30, 160]], np.uint8), size=(16, 16))
    Image.fromarray(palette).save(tmp_path / "palette.png")
    energy = energies.Colour(str(tmp_path / "palette.png"), scale=1.0)
    shuffled = rng.permutation(palette.reshape(-1, 3)).reshape(16, 16, 3)
    x = pixels.to_signed(torch.from_numpy(shuffled.copy()).permute(2, 0, 1)[None])
    assert energy.loss(x, None, None).item() < 1e-10
    wide = np.repeat(np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), 100, axis=1).repeat(60, axis=0)
    Image.fromarray(wide).save(tmp_path / "swatches.png")
    colours = energies.Colour(str(tmp_path / "swatches.png")).target.at((16, 16), spread=True)
    assert {tuple(c) for c in colours[0].flatten(1).T.tolist()} == {(255, 0, 0), (0, 255, 0), (0, 0, 255)}
    after, before = guided_by(energy)
    assert energy.loss(after, None, None).median() < 0.7 * energy.loss(before, None, None).median()


def test_reference_is_met_at_low_resolution(tmp_path):
    Image.fromarray(drawn_butterfly("butterflies", 3, size=16).image).save(tmp_path / "reference.png")
    energy = energies.Reference(str(tmp_path / "reference.png"), size=4, scale=1.0)
    after, before = guided_by(energy)
    cells = lambda x: torch.nn.functional.avg_pool2d(x, 4)  # noqa: E731
    target = cells(pixels.to_signed(energy.image.at((16, 16))))
    assert (cells(after) - target).abs().mean() < 0.5 * (cells(before) - target).abs().mean()


def test_silhouette_separates_inside_from_outside(tmp_path):
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (4, 4, 12, 12))
    mask.save(tmp_path / "mask.png")
    energy = energies.Silhouette(str(tmp_path / "mask.png"))
    inside = energy.mask.mask_at((16, 16))
    assert energy.loss(2 * inside.expand(1, 3, 16, 16) - 1, None, None).item() == pytest.approx(0, abs=1e-6)
    after, before = guided_by(energies.Silhouette(str(tmp_path / "mask.png"), scale=1.0))
    outside = lambda x: float(x[:, inside[0, 0] == 0].std())  # noqa: E731
    assert median_change(before, after, outside) < 0
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    with pytest.raises(UserError, match="white and black"):
        energies.Silhouette(str(tmp_path / "white.png")).loss(torch.zeros(1, 3, 16, 16), None, None)


def test_sharpness_is_total_variation_both_ways():
    def variation(x):
        return float((x.diff(dim=1).abs().mean() + x.diff(dim=2).abs().mean()) / 2)

    sharper, before = guided_by(energies.Sharpness(scale=0.1))
    smoother, _ = guided_by(energies.Sharpness(scale=-0.1))
    assert median_change(before, sharper, variation) > 0
    assert median_change(before, smoother, variation) < 0


# ---- functions of the user's

TEN_LINES = '''
import torch

def centre_is_light(x0, t, cond):
    """Light in the middle, dark around it."""
    height, width = x0.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    target = 1 - 2 * (x**2 + y**2).sqrt().clamp(max=1).to(x0)
    return (x0.mean(1) - target).abs().mean(dim=(1, 2))
'''


def own(tmp_path: Path, body: str, name="loss", **how) -> Custom:
    (tmp_path / "own.py").write_text(body)
    return Custom(f"{tmp_path / 'own.py'}:{name}", **how)


def test_a_users_loss_works_whatever_its_size(tmp_path):
    energy = own(tmp_path, TEN_LINES, "centre_is_light", gradient="unit", scale=0.4)
    after, before = guided_by(energy)
    measure = lambda x: energy.loss(x[None], None, None).item()  # noqa: E731
    assert median_change(before, after, measure) < -0.05
    larger = own(tmp_path, TEN_LINES.replace(".mean(dim=(1, 2))", ".sum(dim=(1, 2))"), "centre_is_light")
    larger.gradient, larger.scale = "unit", 0.4
    torch.testing.assert_close(guided_by(larger)[0], after, rtol=1e-3, atol=1e-3)


MISTAKES = {
    "signature": ("def loss(x0, t):\n    return x0.mean((1, 2, 3))\n", ":1: loss\\(x0, t\\) must be callable as"),
    "shape": (
        "import torch\ndef loss(x0, t, cond):\n    return x0.mean()\n",
        ":2: .* shape \\[4\\], and returned \\[\\]",
    ),
    "no tensor": ("def loss(x0, t, cond):\n    return 1.0\n", ":1: .* returned float"),
    "exception": ("def loss(x0, t, cond):\n    y = x0 * 2\n    return y.oops()\n", ":3: AttributeError"),
    "nan": ("def loss(x0, t, cond):\n    return (x0 * float('nan')).mean((1, 2, 3))\n", r"nan at step 0 .*own.py:1"),
    "nan gradient": ("def loss(x0, t, cond):\n    return (x0 * 0).abs().sqrt().mean((1, 2, 3))\n", "gradient is .*:1"),
    "constant": (
        "def loss(x0, t, cond):\n    return x0.detach().mean((1, 2, 3))\n",
        ":1: the loss does not depend",
    ),
    "no gradient": (
        "def loss(x0, t, cond):\n    y = x0.exp()\n    z = y.sin()\n    y += 1\n    return (y + z).mean((1, 2, 3))\n",
        ":1: the loss has no gradient",
    ),
    "another leaf": (
        "import torch\ndef loss(x0, t, cond):\n    return torch.ones(len(x0), requires_grad=True) * 2\n",
        ":2: the loss does not depend",
    ),
    "leaving": ("def loss(x0, t, cond):\n    raise SystemExit(3)\n", ":2: SystemExit"),
    "syntax": ("def loss(x0, t, cond)\n    return 0\n", ":1: expected ':'"),
    "import": ("import there_is_no_such_module\n", ":1: ModuleNotFoundError"),
    "name": ("def los(x0, t, cond):\n    return 0\n", "no function loss"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_it_names_file_and_line(tmp_path, mistake):
    body, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as raised:
        final(Guided(unclipped(), {"custom": own(tmp_path, body)}))
    assert "own.py" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_loss_may_change_its_argument_and_import_what_lies_beside_it(tmp_path):
    (tmp_path / "helper_beside.py").write_text("TARGET = 0.5\n")
    head = "from __future__ import annotations\nimport dataclasses, helper_beside\n"
    head += "@dataclasses.dataclass\nclass Weight:\n    value: float = 1.0\n"
    line = "    return (x0{} - helper_beside.TARGET).square().mean((1, 2, 3))\n"
    results = []
    for clamp in (".clamp(-1, 1)", ".clamp_(-1, 1)"):
        custom = own(tmp_path, f"{head}def loss(x0, t, cond):\n{line.format(clamp)}", at="x_t", scale=0.3)
        results.append(final(Guided(unclipped(), {"custom": custom, "mirror": energies.Symmetry(at="x_t")})))
    assert torch.equal(*results)


def test_a_function_of_a_package_and_wrong_references(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "losses.py").write_text(TEN_LINES)
    assert Custom("house.losses:centre_is_light").where.endswith("losses.py:4")
    with pytest.raises(UserError, match="there is no file"):
        Custom("not_there.py:loss")
    with pytest.raises(UserError, match=r"file\.py:name"):
        Function("losses", "x0, t, cond", "guidance.function")


@pytest.mark.parametrize("at", ["noisy", "x0", "x_t"])
def test_a_classifier_raises_its_class(tmp_path, at):
    """The most probable class of a linear classifier, made by a function without arguments."""
    (tmp_path / "classes.py").write_text(
        "import torch\n"
        "class Halves(torch.nn.Module):\n"
        "    def forward(self, x, t):\n"
        "        return torch.stack([x[:, :, :8].mean((1, 2, 3)), x[:, :, 8:].mean((1, 2, 3))], 1) * 20\n"
        "def make():\n"
        "    return Halves()\n"
    )
    reference = f"{tmp_path / 'classes.py'}:{'Halves' if at == 'x0' else 'make'}"
    guide = Classifier(reference, label=1, at=at, gradient="raw", scale=2.0)
    after, before = guided_by(guide)
    assert median_change(before, after, lambda x: float(x[:, 8:].mean() - x[:, :8].mean())) > 0.02
    with pytest.raises(UserError, match="from 0 to 1"):
        final(Guided(unclipped(), {"c": Classifier(reference, label=7)}))
    (tmp_path / "classes.py").write_text("def flat(x, t):\n    return x.mean((1, 2, 3))\n")
    with pytest.raises(UserError, match=r"classes.py:1: must return logits, a tensor of shape \[4, K\]"):
        final(Guided(unclipped(), {"c": Classifier(f"{tmp_path / 'classes.py'}:flat", label=0)}))


def test_raw_classifier_guidance_is_bayes_rule():
    """Prior N(0, 1) a pixel, log-likelihood -(y - x_0)^2 / 2 seen on x_t: the guided x_0 is the posterior mean.

    With data N(0, 1) the exact denoiser is x_0 = alpha x_t. By hand, for one pixel: with y = x_0 + noise of
    variance 1, p(y | x_t) = N(alpha x_t, 1 + sigma^2), and so E[x_0 | x_t, y] = alpha x_t + sigma^2 (y - alpha x_t) /
    (1 + sigma^2).
    """

    class Exact(ClosedForm):
        def forward(self, x, t, return_dict=False):
            return ((1 - self.abar[t]).sqrt() * x,)

    training = DDPMScheduler(clip_sample=False)
    denoiser = Denoiser(Exact(training.alphas_cumprod), training, objective("epsilon"))
    noise, t, y = denoiser.noise, torch.tensor(400), 0.8

    class Likelihood(Energy):  # -log p(y | x_t), with its Gaussian integrated over x_0
        def loss(self, x_t, t, cond):
            mean = noise.alpha(t) * x_t
            return ((y - mean).square() / (2 * (1 + noise.sigma(t) ** 2))).sum(dim=(1, 2, 3))

    x_t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    guided = Guided(denoiser, {"y": Likelihood(at="noisy", gradient="raw", largest_change=None)})
    with torch.no_grad():
        x0 = guided(x_t, t).x0
    alpha, sigma = noise.alpha(t.view(1)), noise.sigma(t.view(1))
    torch.testing.assert_close(x0, alpha * x_t + sigma**2 * (y - alpha * x_t) / (1 + sigma**2), rtol=1e-4, atol=1e-5)


# ---- model pairs


def test_a_pair_is_w_of_the_formula():
    """D_other + w (D - D_other), w = 1 + scale, in float64 from the two UNets, whatever each predicts."""
    ours, other = unclipped(0, "v_prediction"), unclipped(1, "epsilon")
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(300)
    with torch.no_grad():
        out = Guided(ours, {"pair": Pair(other, scale=1.5)})(x, t).out
        abar = DDPMScheduler().alphas_cumprod[300].double()
        a, s = abar.sqrt(), (1 - abar).sqrt()
        d = a * x - s * ours.unet(x, t).sample.double()
        d_other = (x - s * other.unet(x, t).sample.double()) / a
        x0 = a * x - s * out.double()
    torch.testing.assert_close(x0, d_other + 2.5 * (d - d_other), rtol=1e-3, atol=1e-3)


def test_wrong_targets(tmp_path):
    with pytest.raises(UserError, match="neither a color"):
        energies.Colour("blurple")
    with pytest.raises(UserError, match="not an image"):
        energies.Colour(str(tmp_path / "palette.png"))
