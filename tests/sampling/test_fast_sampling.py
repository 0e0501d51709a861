"""Faster sampling: half precision for the UNet alone, compiling, and files written while sampling continues."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from tiny_models import ALL, conditional, example_conditions, model_of

from chrysalis.data import pixels
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.sampling import schedulers
from chrysalis.sampling.generation import require_finite
from chrysalis.sampling.guidance.energies import Brightness
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.guidance.model_pairs import cfg
from chrysalis.sampling.loop import Step, sample
from chrysalis.sampling.output import ImageWriter
from chrysalis.sampling.precision import apply
from chrysalis.system import compiling, files, hardware
from chrysalis.system.errors import UserError

SMALL = ["steps=3", "batch_size=2", "trainer.accelerator=cpu"]
HALF = "trainer.precision=bf16-mixed"


def image(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def model(tmp_path):
    DDPMPipeline(unet=tiny_unet(), scheduler=DDPMScheduler()).save_pretrained(tmp_path / "model")
    return f"model.pretrained={tmp_path / 'model'}"


def inputs():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(300)


def test_only_the_unet_computes_in_half_precision(denoiser):
    """Its output equals that under torch's own autocast, as float32."""
    (x, t), plain = inputs(), denoiser.forward
    with torch.no_grad():
        full = plain(x, t).out
        with torch.autocast("cpu", torch.bfloat16):
            expected = denoiser.unet(x, t).sample.float()
        apply(denoiser, {}, "bf16-mixed")
        seen = []
        denoiser.unet.conv_in.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        out = denoiser(x, t).out
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)
    assert not torch.equal(out, full)
    assert seen == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("names", [("text",), ALL], ids="+".join)
def test_conditions_and_the_models_that_guidance_asks_are_in_half_precision_too(names):
    def sampled(precision):
        denoiser = conditional(names)
        terms = {"cfg": cfg(model_of(denoiser), scale=2), "lighter": Brightness(0.9, at="x_t", scale=0.3)}
        apply(denoiser, terms, precision)
        seen = []
        denoiser.unet.conv_in.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        scheduler = schedulers.build(denoiser.scheduler, "dpmpp_2m")
        cond = {name: example_conditions()[name] for name in names}
        x = sample(Guided(denoiser, terms), scheduler, 4, seeds.generators(range(4)), (16, 16), cond)
        return x, seen

    (full, plain), (half, lowered) = sampled("32-true"), sampled("bf16-mixed")
    assert set(plain) == {torch.float32}
    assert lowered == [torch.bfloat16] * len(plain)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.3


def test_the_gradient_through_a_unet_in_half_precision_points_in_the_same_direction(denoiser):
    (x, t), grads = inputs(), []
    for precision in ("32-true", "bf16-mixed"):
        apply(denoiser, {}, precision)
        x = x.detach().requires_grad_()
        grads.append(torch.autograd.grad(denoiser(x, t).out.square().mean(), x)[0].flatten(1))
    assert grads[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*grads).min() > 0.99


def test_a_precision_that_cannot_be_used_is_refused(denoiser):
    with pytest.raises(UserError, match=r"trainer\.precision=half is unknown"):
        hardware.precision("half", "cpu")
    with pytest.raises(UserError, match="16-mixed is for GPUs"):
        hardware.precision("16-mixed", "cpu")
    with pytest.raises(UserError, match=r"guidance\.lighter\.at=x_t takes gradients"):
        apply(denoiser, {"lighter": Brightness(0.9, at="x_t")}, "16-mixed")
    assert hardware.precision("auto", "cpu")[0] in ("32-true", "bf16-mixed")


def test_an_image_records_its_precision(run, model, tmp_path, capfd):
    assert run("sample", model, "n=3", "out=full", *SMALL) == 0
    assert run("sample", model, "n=3", "out=half", HALF, *SMALL) == 0
    assert not (image("half/grid.png") == image("full/grid.png")).all()
    assert np.abs(image("half/grid.png") - image("full/grid.png")).mean() < 2
    record = json.loads((tmp_path / "half" / "settings.json").read_text())
    assert (record["precision"], HALF in record["overrides"]) == ("bf16-mixed", True)
    assert record["command"].endswith(HALF)
    capfd.readouterr()
    assert run("sample", "from=half/seed_00001.png", "out=again", "trainer.accelerator=cpu") == 0
    assert (tmp_path / "again" / "seed_00001.png").read_bytes() == (tmp_path / "half" / "seed_00001.png").read_bytes()
    assert "differ" not in capfd.readouterr().err
    change = ["trainer.precision=32-true", "trainer.accelerator=cpu"]
    assert run("sample", "from=half/seed_00001.png", "out=other", *change) == 0
    assert (image("other/seed_00001.png") == image("full/seed_00001.png")).all()


def test_images_of_two_precisions_do_not_mix(run, model, tmp_path, capfd):
    assert run("sample", model, "n=2", "out=generated", *SMALL) == 0
    assert run("sample", model, "n=2", "out=generated", HALF, *SMALL) == 2
    assert "out=generated holds images with trainer.precision=32-true" in capfd.readouterr().err
    (tmp_path / "generated" / "seed_00001.png").unlink()
    assert run("sample", model, "n=2", "out=generated", *SMALL) == 0


def test_auto_is_recorded_as_what_it_was(run, model, tmp_path):
    assert run("sample", model, "n=1", "out=generated", "trainer.precision=auto", *SMALL) == 0
    record = json.loads((tmp_path / "generated" / "settings.json").read_text())
    chosen, _ = hardware.precision("auto", "cpu")
    assert record["precision"] == chosen
    assert "trainer.precision=auto" not in record["overrides"]
    assert (f"trainer.precision={chosen}" in record["overrides"]) == (chosen != "32-true")


@pytest.mark.proof  # a minute of compiling
def test_a_compiled_unet_serves_full_batches_alone(model, tmp_path):
    """Three images in batches of two: one compilation, and images as without. In a process of its own, which
    counts its compilations."""
    (tmp_path / "count.py").write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\nimport sample\nsample.sample()\n"
        "from torch._dynamo.utils import counters\nprint(counters['stats']['unique_graphs'])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for out, compiled in (("plain", "false"), ("compiled", "true")):
        words = [sys.executable, "count.py", model, "n=3", f"out={out}", f"compile={compiled}", *SMALL]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    for name in ("seed_00000", "seed_00002"):
        plain, compiled = (image(tmp_path / out / f"{name}.png") for out in ("plain", "compiled"))
        assert np.abs(plain - compiled).max() <= 1


@pytest.mark.proof  # compiles
def test_every_condition_is_compiled_with_its_hooks(monkeypatch):
    """Captions of many lengths, and the null that guidance asks for, cost three compilations and not one each."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compile_(self, **how | {"backend": counter}))

    def sampled(compiled, captions):
        denoiser = conditional(("label", "text"))
        terms = {"cfg": cfg(model_of(denoiser), scale=2)}
        apply(denoiser, terms, "32-true", compiled)
        guided, scheduler = Guided(denoiser, terms), schedulers.build(denoiser.scheduler, "ddim")
        return [
            sample(
                guided,
                scheduler,
                2,
                seeds.generators(range(4)),
                (16, 16),
                {"label": example_conditions()["label"], "text": text},
            )
            for text in captions
        ]

    captions = [("red",) * 4, (" ".join(["red"] * 3),) * 4, ("red moth",) * 4, (" ".join(["blue"] * 5), None, "", "a")]
    for plain, compiled in zip(sampled(False, captions), sampled(True, captions), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    assert 1 <= counter.frame_count <= 3


def test_an_error_of_the_compiler_is_explained_and_no_other():
    from torch._dynamo.exc import Unsupported

    assert "compile=true cannot be used here: no compiler" in str(
        compiling.why_not_compiled(Unsupported("no compiler"))
    )
    assert compiling.why_not_compiled(OSError("disk full")) is None


def test_written_meanwhile_is_written_the_same(tmp_path):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    with ImageWriter(threads=3, max_waiting=5) as writing:
        for k, image in enumerate(images):
            writing.save(image, tmp_path / "meanwhile" / f"{k}.png", {"image": str(k)})
            assert len(writing.waiting) <= 5
    for k, image in enumerate(images):
        pixels.save_png(image, tmp_path / "plain.png", {"image": str(k)})
        written = tmp_path / "meanwhile" / f"{k}.png"
        assert written.read_bytes() == (tmp_path / "plain.png").read_bytes()
        assert written.stat().st_mode & 0o777 == 0o666 & ~files.UMASK


def test_a_file_that_cannot_be_written_ends_the_sampling(run, model, tmp_path, capfd):
    """A folder lies where an image is to be: that error, the images before it, and nothing half written."""
    words = [model, "n=9", "out=generated", *SMALL]
    assert run("sample", *words) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "generated").glob("seed_*.png")}
    for name in ("seed_00000.png", "seed_00004.png", "seed_00008.png", "grid.png"):
        (tmp_path / "generated" / name).unlink()
    (tmp_path / "generated" / "seed_00004.png" / "in the way").mkdir(parents=True)
    assert run("sample", *words) != 0
    assert "seed_00004.png" in capfd.readouterr().err
    assert not list((tmp_path / "generated").glob(".*"))
    assert (tmp_path / "generated" / "seed_00000.png").read_bytes() == before["seed_00000.png"]
    assert not (tmp_path / "generated" / "grid.png").exists()
    (tmp_path / "generated" / "seed_00004.png" / "in the way").rmdir()
    (tmp_path / "generated" / "seed_00004.png").rmdir()
    assert run("sample", *words) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "generated").glob("seed_*.png")} == before


@pytest.mark.parametrize(("names", "max_waiting"), [("a", 32), ("abc", 1)])
def test_an_error_in_a_thread_is_raised_at_the_next_image_or_at_the_end(tmp_path, names, max_waiting):
    (tmp_path / "a.png" / "in the way").mkdir(parents=True)

    def write():
        with ImageWriter(max_waiting=max_waiting) as writing:
            for name in names:
                writing.save(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / f"{name}.png")

    with pytest.raises(OSError, match=r"a\.png"):
        write()


def test_images_from_before_an_error_are_kept(tmp_path):
    def write():
        with ImageWriter() as writing:
            writing.save(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "a.png")
            raise KeyError("sampling failed")

    with pytest.raises(KeyError, match="sampling failed"):
        write()
    assert (tmp_path / "a.png").is_file()


def test_threads_do_not_disturb_each_others_permissions(tmp_path):
    """Files that other threads make meanwhile, without `written`, must not be open to all."""

    def both(k: int) -> int:
        files.write_text(tmp_path / f"{k}.txt", "x")
        (tmp_path / f"plain{k}.txt").write_text("x")
        return (tmp_path / f"plain{k}.txt").stat().st_mode & 0o777

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(both, range(200))) == {0o666 & ~files.UMASK}


@pytest.mark.parametrize("immediate", [True, False])
def test_the_first_step_that_is_not_finite_is_named(immediate):
    x, seen = torch.zeros(1, 3, 2, 2), []
    values = enumerate([0.0, 1.0, float("nan"), float("inf")])
    steps = (Step(i, torch.tensor(900 - i), x + value, x) for i, value in values)
    with pytest.raises(UserError, match=r"step 2 \(t=898\) of scheduler=DDIMScheduler"):
        seen.extend(step.i for step in require_finite(steps, "DDIMScheduler", immediate))
    assert len(seen) == (2 if immediate else 4)


def test_sampling_reads_nothing_back_between_steps(monkeypatch):
    """On a GPU each reading is a wait; here they are counted, without the check that a CPU does at once."""
    denoiser = Denoiser(tiny_unet().eval(), DDPMScheduler(), objective("epsilon"))
    taken, read = [Step(0, torch.tensor(1), torch.zeros(1, 3, 2, 2), torch.zeros(1))], []
    steps = require_finite(iter(taken), "", immediate=False)
    for name in ("tolist", "item", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, name=name, original=original: read.append(name) or original(self, *a)
        )
    assert next(steps) is taken[0]
    denoiser(*inputs())
    assert not read
    assert not list(steps)
    assert read == ["tolist"]
