"""sample.py from the command line: files, their records, stopping and continuing, several processes, mistakes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

from chrysalis.denoiser import Denoiser
from chrysalis.sampling import grids

SMALL = ["steps=3", "batch_size=2"]


def image(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    training = DDPMScheduler(prediction_type="v_prediction")
    for name, seed in (("base", 0), ("model", 0)):
        unet = tiny_unet(seed)
        if name == "model":
            with torch.no_grad():
                unet.conv_out.bias += 0.2
        DDPMPipeline(unet=unet, scheduler=training).save_pretrained(at / name)
    return at


@pytest.fixture
def model(two_models, tmp_path):
    """A v-prediction model, as a folder that a run might have left: its card names the base model."""
    for name in ("base", "model"):
        shutil.copytree(two_models / name, tmp_path / name)
    (tmp_path / "model" / "README.md").write_text(f"---\nbase_model: {tmp_path / 'base'}\n---\n")
    return f"model.pretrained={tmp_path / 'model'}"


def test_the_files_of_a_sampling(run, model, tmp_path):
    assert run("sample", model, "n=5", "seed=3", "out=generated", *SMALL) == 0
    names = sorted(p.name for p in (tmp_path / "generated").iterdir())
    assert names == ["grid.png", *(f"seed_{k:05d}.png" for k in range(3, 8)), "settings.json"]
    record = json.loads((tmp_path / "generated" / "settings.json").read_text())
    assert record["settings"]["seed"] == 3
    assert record["command"].startswith("python sample.py model.pretrained=")
    text = Image.open(tmp_path / "generated" / "seed_00004.png").text
    assert text["image"] == "seed_00004"
    assert json.loads(text["record"])["overrides"] == record["overrides"]


@pytest.mark.parametrize(
    "how",
    [
        ["scheduler=euler_ancestral"],
        ["scheduler=dpmpp_2m_sde", "guidance=[colour,symmetry]", "guidance.colour.target=crimson"],
        ["guidance=domain", "guidance.recurrence=2"],
        ["task=morph", "task.frames=2"],
        ["task=blend", "task.ratios=[0,0.5]"],
        ["scheduler=KDPM2AncestralDiscreteScheduler"],
    ],
)
def test_an_image_is_generated_again_bit_for_bit_from_its_own_file(run, model, tmp_path, how):
    assert run("sample", model, "n=3", "out=first", *SMALL, *how) == 0
    generated = sorted(p for p in (tmp_path / "first").glob("*_0*.png"))
    assert len(generated) >= 3
    chosen = generated[-1]
    assert run("sample", f"from={chosen}", "out=again") == 0
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == [chosen.name, "settings.json"]
    assert (tmp_path / "again" / chosen.name).read_bytes() == chosen.read_bytes()


def test_from_an_image_with_a_change(run, model, tmp_path):
    assert run("sample", model, "n=3", "out=first", *SMALL) == 0
    assert run("sample", "from=first/seed_00001.png", "steps=6", "scheduler=heun", "out=changed") == 0
    assert run("sample", model, "n=3", "out=direct", "steps=6", "batch_size=2", "scheduler=heun") == 0
    assert (image("changed/seed_00001.png") == image("direct/seed_00001.png")).all()
    assert not (image("changed/seed_00001.png") == image("first/seed_00001.png")).all()


CHANGES = {
    "a scheduler with keys of its own": (["scheduler=ddim", "scheduler.eta=1"], ["scheduler=heun"]),
    "a class by another": (["scheduler=KDPM2AncestralDiscreteScheduler"], ["scheduler=ddim"]),
    "less guidance": (["guidance=[colour,symmetry]", "guidance.colour.target=red"], ["guidance=symmetry"]),
    "none": (["guidance=colour", "guidance.colour.target=red"], ["guidance=[]"]),
    "another task": (["task=morph", "task.frames=2"], ["task=generate"]),
    "another seed": ([], ["seed=9"]),
    "more images": ([], ["n=4"]),
    "a sweep": ([], ["-m", "steps=2,4"]),
    "a sweep of guidance": (["guidance=colour", "guidance.colour.scale=0.2"], ["-m", "guidance=colour,symmetry"]),
    "a sweep of classes": ([], ["-m", "scheduler=DDIMScheduler,HeunDiscreteScheduler"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_keys_change_the_recorded_settings(run, model, tmp_path, change):
    first, then = CHANGES[change]
    assert run("sample", model, "n=2", "out=first", *SMALL, *first) == 0
    image = sorted((tmp_path / "first").glob("*_0*.png"))[0]
    flags, words = [w for w in then if w.startswith("-")], [w for w in then if not w.startswith("-")]
    assert run("sample", *flags, f"from={image}", "out=changed", *words) == 0
    assert list((tmp_path / "changed").rglob("*_0*.png"))


def test_from_an_image_whose_model_has_changed_warns(run, model, tmp_path, capfd):
    assert run("sample", model, "n=1", "out=first", *SMALL) == 0
    tiny_unet(5).save_pretrained(tmp_path / "model" / "unet")
    assert run("sample", "from=first/seed_00000.png", "out=again") == 0
    assert "has changed since the image was generated" in capfd.readouterr().err
    assert run("sample", "from=first/grid.png") == 2
    assert "has no record of how" in capfd.readouterr().err


def test_a_stopped_sampling_continues(run, model, tmp_path, capfd):
    words = [model, "n=7", "out=generated", "scheduler=ddpm", *SMALL]
    assert run("sample", *words) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "generated").iterdir()}
    for name in ("grid.png", "seed_00003.png", "seed_00006.png"):
        (tmp_path / "generated" / name).unlink()
    base_model = (tmp_path / "generated" / "seed_00000.png").stat().st_mtime_ns
    assert run("sample", *words) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "generated").iterdir()} == before
    assert (tmp_path / "generated" / "seed_00000.png").stat().st_mtime_ns == base_model
    assert run("sample", *words, "seed=1") == 2  # other images are not mixed in
    assert "holds images with seed=0" in capfd.readouterr().err
    (tmp_path / "generated" / "seed_00003.png").unlink()
    assert run("sample", *words, "batch_size=1", "trajectory=true", "trajectory_columns=3") == 0
    assert {"trajectory.png", "seed_00003.png"} <= {p.name for p in (tmp_path / "generated").iterdir()}
    strip = (tmp_path / "generated" / "trajectory.png").read_bytes()
    assert run("sample", *words, "batch_size=1", "trajectory=true", "trajectory_columns=2") == 0
    assert (tmp_path / "generated" / "trajectory.png").read_bytes() != strip
    (tmp_path / "generated" / "seed_00003.png").unlink()
    tiny_unet(5).save_pretrained(tmp_path / "model" / "unet")
    assert run("sample", *words) == 2
    assert "from before" in capfd.readouterr().err


@pytest.mark.parametrize("damage", [lambda png: png[: len(png) // 2], lambda png: b"", lambda png: b"no image"])
def test_a_damaged_image_is_generated_again_and_the_others_stay(run, model, tmp_path, damage):
    words, folder = [model, "n=3", "out=generated", *SMALL], tmp_path / "generated"
    assert run("sample", *words) == 0
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    times = {p.name: p.stat().st_mtime_ns for p in folder.glob("seed_*.png")}
    (folder / "seed_00001.png").write_bytes(damage(before["seed_00001.png"]))
    assert run("sample", *words) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    now = {p.name: p.stat().st_mtime_ns for p in folder.glob("seed_*.png")}
    assert [name for name in sorted(now) if now[name] != times[name]] == ["seed_00001.png"]


@pytest.mark.proof  # starts a process
def test_a_killed_sampling_leaves_complete_files_and_continues(run, model, tmp_path):
    words = [sys.executable, REPOSITORY / "sample.py", model, "n=400", "out=generated", "steps=10", "batch_size=2"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "generated").glob("seed_*.png"))) < 6:
        pass
    process.kill()
    process.wait()
    generated = {path.name: path.read_bytes() for path in (tmp_path / "generated").glob("seed_*.png")}
    assert 6 <= len(generated) < 400
    for name in generated:
        Image.open(tmp_path / "generated" / name).verify()
    # the rest of the same sampling, here a shorter one for which the folder's record is edited
    record = json.loads((tmp_path / "generated" / "settings.json").read_text())
    record["settings"]["n"] = 12
    (tmp_path / "generated" / "settings.json").write_text(json.dumps(record))
    words[words.index("n=400")] = "n=12"
    assert run("sample", *words[2:]) == 0
    assert len(list((tmp_path / "generated").glob("seed_*.png"))) >= 12
    assert all((tmp_path / "generated" / name).read_bytes() == data for name, data in generated.items())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_partial_file(run, model, tmp_path, monkeypatch, signum):
    """Here during the second image; the partial files of a killed process go when the same command continues."""
    calls, plain = [], Denoiser.forward

    def forward(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            os.kill(os.getpid(), signum)
        return plain(self, *arguments)

    words = [model, "n=2", "out=generated", "steps=3", "batch_size=1"]
    with monkeypatch.context() as patched:
        patched.setattr(Denoiser, "forward", forward)
        assert run("sample", *words) == 128 + signum
    assert signal.getsignal(signum) == signal.SIG_DFL
    assert sorted(p.name for p in (tmp_path / "generated").iterdir()) == ["seed_00000.png", "settings.json"]
    (tmp_path / "generated" / ".seed_00001.png.x.partial").write_bytes(b"half")
    assert run("sample", *words) == 0
    names = ["grid.png", "seed_00000.png", "seed_00001.png", "settings.json"]
    assert sorted(p.name for p in (tmp_path / "generated").iterdir()) == names


@pytest.fixture
def shared_out(run, model, tmp_path):
    """The same images generated by one process and by two."""
    words = [model, "n=7", "scheduler=ddpm", *SMALL, "trainer.accelerator=cpu", "trajectory=true"]
    assert run("sample", *words, "out=one") == 0
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    # conftest's threads are this process's own; here one is enough, and the same for all
    environment["OMP_NUM_THREADS"] = "1"
    words = [sys.executable, str(REPOSITORY / "sample.py"), *words, "out=two", "trainer.devices=2"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().startswith("7 images"), done.stderr
    return tmp_path


@pytest.mark.proof  # starts processes for half a minute
def test_two_processes_generate_the_same_images_as_one(shared_out):
    one, two = ({p.name: p.read_bytes() for p in (shared_out / out).glob("*.png")} for out in ("one", "two"))
    assert len(one) == 9
    assert one.keys() == two.keys()
    for name in one:
        assert (image(shared_out / "one" / name) == image(shared_out / "two" / name)).all(), name


@pytest.mark.proof  # starts processes for half a minute
def test_an_error_in_one_process_is_shown_once(model, tmp_path):
    """The second process's loss fails; both end with exit code 2, and what was complete stays."""
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "def loss(x0, t, cond):\n"
        "    assert os.environ.get('LOCAL_RANK', '0') == '0', 'not here'\n"
        "    return x0.mean((1, 2, 3))\n"
    )
    words = [sys.executable, str(REPOSITORY / "sample.py"), model, "n=4", "out=generated", *SMALL, "trainer.devices=2"]
    own = ["trainer.accelerator=cpu", "guidance=custom", "guidance.function=mine.py:loss"]
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([*words, *own], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("mine.py:3: AssertionError: not here") == 1
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in (tmp_path / "generated").glob("*.png")) == ["seed_00000.png", "seed_00001.png"]


@pytest.mark.parametrize("formats", [["gif"], ["webp", "mp4"]])
def test_trajectory_is_a_strip_and_an_animation_of_any_number_of_frames(run, model, tmp_path, formats):
    kinds = f"animation.formats=[{','.join(formats)}]"
    more = ["trajectory=true", "trajectory_columns=4", "animation.frames=5", kinds, "scheduler=heun", "steps=9"]
    assert run("sample", model, "n=3", "out=generated", "batch_size=2", *more) == 0
    strip = Image.open(tmp_path / "generated" / "trajectory.png")
    assert strip.size == (4 * 16 + 3 * 2, 4 * 16 + 3 * 2)  # two images of the first batch, x_t and x_0 of each
    final = np.asarray(strip)[:16, -16:]
    assert (final == image(tmp_path / "generated" / "seed_00000.png")).all()
    for name in formats:
        animation = iio.imread(tmp_path / "generated" / f"trajectory.{name}", index=None if name == "mp4" else ...)
        assert len(animation) >= 5
        last = np.asarray(animation[4], float)  # its first square is the finished image, eight times as large
        expected = image(tmp_path / "generated" / "seed_00000.png").astype(float).repeat(8, 0).repeat(8, 1)
        assert name == "mp4" or len(animation) == 5
        assert np.abs(last[:128, :128, :3] - expected).mean() < 12  # none of the formats is exact


def test_guidance_figures_lie_beside_the_images(run, model, tmp_path):
    more = ["guidance=[brightness,symmetry]", "guidance.brightness.scale=0.3", "guidance.symmetry.at=x_t"]
    assert run("sample", model, "n=3", "out=generated", *more, *SMALL) == 0
    rows = list(csv.DictReader((tmp_path / "generated" / "guidance.csv").read_text().splitlines()))
    assert len(rows) == 3 * 3 * 2
    assert {row["term"] for row in rows} == {"brightness", "symmetry"}
    assert all(0 < float(row["fraction"]) < 1 for row in rows)
    assert Image.open(tmp_path / "generated" / "guidance.png").size[0] > 500
    assert [int(row["step"]) for row in rows if row["image"] == "seed_00001"] == [0, 0, 1, 1, 2, 2]
    assert "guidance" not in Image.open(tmp_path / "generated" / "seed_00001.png").text


def test_guidance_figures_of_an_earlier_command_are_kept_or_missed_with_a_word(run, model, tmp_path, capfd):
    words, table = [model, "n=4", "out=generated", "guidance=symmetry", *SMALL], tmp_path / "generated" / "guidance.csv"
    assert run("sample", *words) == 0
    before = table.read_bytes()
    assert "guidance.csv has no rows" not in capfd.readouterr().err
    (tmp_path / "generated" / "seed_00003.png").unlink()
    assert run("sample", *words) == 0
    assert table.read_bytes() == before
    (tmp_path / "generated" / "seed_00003.png").unlink()
    table.unlink()
    capfd.readouterr()
    assert run("sample", *words) == 0
    assert "guidance.csv has no rows for 2 of the images, which an earlier command generated" in capfd.readouterr().err
    assert {row["image"] for row in csv.DictReader(table.read_text().splitlines())} == {"seed_00002", "seed_00003"}


def test_a_grid_reads_no_file_of_an_image_that_was_just_generated(run, model, monkeypatch):
    from chrysalis.sampling import output

    read = []
    monkeypatch.setattr(output, "read", lambda file: read.append(file.name) or grids.read(file))
    assert run("sample", model, "n=66", "out=generated", "steps=1", "batch_size=33") == 0
    assert not read
    (Path("generated") / "seed_00001.png").unlink()
    assert run("sample", model, "n=66", "out=generated", "steps=1", "batch_size=33") == 0
    assert len(read) == 63


def test_domain_guidance_takes_the_runs_own_base(run, model, tmp_path):
    """With w = 1 + scale; scale 0 is the model alone, and the base model can be named."""
    assert run("sample", model, "n=2", "out=plain", *SMALL) == 0
    assert run("sample", model, "n=2", "out=zero", "guidance=domain", "guidance.domain.scale=0", *SMALL) == 0
    assert (image("zero/grid.png") == image("plain/grid.png")).all()
    assert run("sample", model, "n=2", "out=one", "guidance=domain", *SMALL) == 0
    named = ["guidance=domain", f"guidance.domain.base={tmp_path / 'base'}"]
    assert run("sample", model, "n=2", "out=named", *named, *SMALL) == 0
    assert (image("one/grid.png") == image("named/grid.png")).all()
    assert not (image("one/grid.png") == image("plain/grid.png")).all()


def test_autoguidance_takes_a_checkpoint_of_a_run(run, tmp_path):
    from conftest import TINY_MODEL, TINY_RUN

    assert run("train", *TINY_MODEL, *TINY_RUN, "data.n=30", "name=first") == 0
    file = tmp_path / "runs" / "first" / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    for average in saved["callbacks"]["EMA"]["ema_weights"].values():
        average += 0.05
    torch.save(saved, file)
    more = ["guidance=autoguidance", f"guidance.autoguidance.checkpoint={file}"]
    assert run("sample", "model.pretrained=runs/first", "n=1", "out=plain", *SMALL) == 0
    assert run("sample", "model.pretrained=runs/first", "n=1", "out=generated", *more, *SMALL) == 0
    assert not (image("generated/seed_00000.png") == image("plain/seed_00000.png")).all()
    assert run("sample", "model.pretrained=runs/first", "n=1", "out=b", more[0], f"{more[1]}x", *SMALL) == 2


def test_a_users_loss_outside_the_project(run, model, tmp_path, capfd):
    (tmp_path / "elsewhere").mkdir()
    loss = tmp_path / "elsewhere" / "my_loss.py"
    loss.write_text("def blue(x0, t, cond):\n    return (x0[:, 2] - 0.9).abs().mean(dim=(1, 2))\n")
    assert run("sample", model, "n=2", "out=plain", *SMALL) == 0
    own = ["guidance=custom", f"guidance.function={loss}:blue", "guidance.custom.scale=0.5"]
    assert run("sample", model, "n=2", "out=blue", *own, *SMALL) == 0
    assert image("blue/grid.png")[..., 2].mean() > image("plain/grid.png")[..., 2].mean() + 10
    loss.write_text("def blue(x0, t, cond):\n    return x0.mean()\n")
    assert run("sample", model, "n=2", "out=wrong", *own, *SMALL) == 2
    printed = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"{loss}:1" in printed
    assert "[2]" in printed
    assert not (tmp_path / "wrong").exists()


def test_a_loss_that_was_moved_is_named(run, model, tmp_path, capfd):
    (tmp_path / "my_loss.py").write_text("def loss(x0, t, cond):\n    return x0.mean(dim=(1, 2, 3))\n")
    words = [model, "n=2", *SMALL, "guidance=custom", "guidance.function=my_loss.py:loss", "out=generated"]
    assert run("sample", *words) == 0
    (tmp_path / "my_loss.py").rename(tmp_path / "moved.py")
    (tmp_path / "generated" / "seed_00001.png").unlink()
    capfd.readouterr()
    assert run("sample", *words) == 2
    assert "my_loss.py is missing, which out=generated depends on" in capfd.readouterr().err
    assert run("sample", "from=generated/seed_00000.png", "out=again") == 2
    assert "guidance.function: there is no file my_loss.py" in capfd.readouterr().err
    again = ["from=generated/seed_00000.png", "guidance.function=moved.py:loss", "out=again"]
    assert run("sample", *again) == 0
    assert (image("again/seed_00000.png") == image("generated/seed_00000.png")).all()


def test_a_recurrence_changes_the_images_and_stays_a_pure_function(run, model):
    for out in ("a", "b"):
        assert run("sample", model, "n=1", f"out={out}", "guidance.recurrence=2", "scheduler=unipc", *SMALL) == 0
    assert (image("a/grid.png") == image("b/grid.png")).all()


MISTAKES = {
    "no scheduler name": (["scheduler=other"], "scheduler.name is missing"),
    "flow matching": (["scheduler=FlowMatchEulerDiscreteScheduler"], "flow matching"),
    "no loss": (["guidance=custom"], "guidance.function is missing"),
    "a key of a group that is not chosen": (["guidance.colour.scale=3"], "needs guidance=colour: add it"),
    "no image": (["task=img2img"], "task.image is missing"),
    "recurrence": (["guidance.recurrence=0"], "guidance.recurrence=0"),
    "format": (["animation.formats=[avi]"], "animation.formats=[avi]"),
    "moments": (["trajectory=true", "trajectory_columns=1"], "trajectory_columns=1"),
    "seconds": (["trajectory=true", "animation.seconds=0"], "animation.seconds=0"),
    "devices": (["trainer.devices=abc"], "trainer.devices=abc"),
    "no trainer setting": (["+trainer.max_steps=4"], "trainer.max_steps is not a setting"),
    "precision": (["trainer.precision=8"], "trainer.precision=8 is unknown"),
    "half precision on a CPU": (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], "16-mixed is for GPUs"),
    "compile": (["compile=perhaps"], "compile=perhaps must be true or false"),
    "group": (["task=null"], "choose an option of the group"),
    "one step": (["scheduler=deis", "steps=1"], "no step at all"),
    "offset": (["scheduler=ddim", "+scheduler.steps_offset=5000"], "goes outside the model's 1000 timesteps"),
    "solver": (["scheduler=dpmpp_2m", "+scheduler.algorithm_type=foo"], "foo is not implemented"),
    "a key of a leaf": (["guidance=colour", "guidance.colour.foo=1"], "guidance.colour.foo is not a known key"),
    "interval": (["guidance=colour", "guidance.colour.interval=[a,b]"], "guidance.colour.interval"),
    "interval backwards": (["guidance=domain", "guidance.domain.interval=[5,1]"], "the smaller first"),
    "a base that is a number": (["guidance=domain", "guidance.domain.base=3"], "guidance.domain.base=3"),
    "a text for trajectory": (["trajectory=abc"], "trajectory=abc"),
    "image size": (["image_size=0"], "image_size=0"),
    "only": (["only=seed_00099"], "only=seed_00099"),
    "nan": (["scheduler=DPMSolverMultistepScheduler", "steps=1000", "n=1"], "not finite"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(run, model, tmp_path, capfd, mistake):
    overrides, message = MISTAKES[mistake]
    assert run("sample", model, "out=generated", *overrides) == 2
    printed = capfd.readouterr().err.strip()
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "generated").exists()


def test_a_size_beyond_the_models_own_gives_a_warning(run, model_folder, capsys):
    common = [f"model.pretrained={model_folder}", "n=1", "steps=1"]
    assert run("sample", *common, "image_size=32", "out=large") == 0
    assert "was trained at 16 x 16 px and is now sampled at 32 x 32 px, where it may repeat" in capsys.readouterr().err
    assert run("sample", *common, "out=own") == 0
    assert "trained at" not in capsys.readouterr().err


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "ddpm", "ddim scheduler.eta=1"])
def test_invert_says_which_scheduler_it_needs(run, model, tmp_path, capfd, scheduler):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    words = ["task=invert", f"task.image={tmp_path / 'red.png'}", *f"scheduler={scheduler}".split()]
    assert run("sample", model, *words, "out=inverted", *SMALL) == 2
    assert "task=invert inverts deterministic DDIM steps: use scheduler=ddim, without eta" in capfd.readouterr().err
