"""A mistake ends in a message that names the key and exit code 2, without a traceback or partial files."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

import chrysalis

SMALL = [*TINY_MODEL, *TINY_RUN, "data.n=30"]

TRAIN = {
    "unknown key": (["data.imge_size=64"], ["data.imge_size", "data.image_size"]),
    "key without its group": (["batch_size=4"], ["batch_size", "data.batch_size"]),
    "unknown trainer key": (["trainer.precison=16"], ["trainer.precison", "trainer.precision"]),
    "unknown option": (["data=foldr"], ["data=foldr", "folder", "butterflies"]),
    "half an interpolation in the folder's name": (
        ["name=${"],
        ["name cannot be used: no viable alternative at input"],
    ),
    "unknown experiment": (["experiment=smithsonain"], ["smithsonian"]),
    "experiment by its path": (["experiment=own/mine.yaml"], ["FOLDER/experiment/mine.yaml", "experiment=mine"]),
    "path without its group": (["data.path=one"], ["data.path", "data=folder or data=hub"]),
    "float64": ([*SMALL, "trainer.precision=64"], ["trainer.precision=64 cannot be used", "32-true"]),
    "missing path": (["data=folder"], ["data.path"]),
    "path that is not there": (["data=folder", "data.path=not/there"], ["data.path=not/there"]),
    "no images": (["data=folder", "data.path=empty"], ["data.path=empty", "no images"]),
    "one image": ([*TINY_MODEL, "data=folder", "data.path=one"], ["one usable image"]),
    "size it cannot halve": ([*SMALL, "data.image_size=17"], ["data.image_size=17", "16 or 18"]),
    "size that is none": (["data.image_size=big"], ["data.image_size=big"]),
    "batch larger than the set": ([*SMALL, "data.batch_size=500"], ["data.batch_size=500", "23 images"]),
    "batch of none": ([*SMALL, "data.batch_size=0"], ["data.batch_size=0"]),
    "no model folder": (["model.pretrained=empty"], ["model.pretrained=empty", "config.json"]),
    "neither folder nor hub id": (["model.pretrained=somewhere"], ["model.pretrained=somewhere", "assets/insects-128"]),
    "hub without network": (["model.pretrained=google/ddpm-celebahq-256"], ["no network", "assets/insects-128"]),
    "dataset without network": (["data=hub", "data.path=some/thing"], ["data.path=some/thing", "no network"]),
    "misspelt scheduler": (
        [*SMALL, "callbacks.samples.scheduler=ddmi"],
        ["callbacks.samples.scheduler=ddmi", "ddim"],
    ),
    "other objective": (["model.pretrained=eps-model", "objective=v"], ["objective=v", "predicts eps"]),
    "misspelt precision": ([*SMALL, "trainer.precision=bf17"], ["trainer", "bf17"]),
    "no learning rate": ([*SMALL, "optimizer.lr=0"], ["optimizer.lr=0"]),
    "wrong type": ([*SMALL, "trainer.max_steps=many"], ["trainer"]),
    "not key=value": (["data.path"], ["data.path", "key=value"]),
    "no run to resume": (["resume=runs/nothing"], ["resume=runs/nothing"]),
    "bad split": ([*SMALL, "data.val_fraction=2"], ["data.val_fraction=2"]),
    "bad resize": ([*SMALL, "data.resize=squash"], ["data.resize=squash", "crop"]),
    "bad EMA": ([*SMALL, "callbacks.ema.decay=1.5"], ["callbacks.ema.decay=1.5"]),
    "accumulate nothing": ([*SMALL, "trainer.accumulate_grad_batches=0"], ["trainer.accumulate_grad_batches=0"]),
    "negative seed": ([*SMALL, "seed=-1"], ["seed=-1"]),
    "accelerator that is not here": ([*SMALL, "trainer.accelerator=mps"], ["trainer.accelerator=mps"]),
    "callback taken away": ([*SMALL, "callbacks.samples=null"], ["callbacks.", "every_n_train_steps"]),
    "part of an epoch": ([*SMALL, "+trainer.limit_train_batches=2"], ["trainer.limit_train_batches"]),
    "all the same": ([*TINY_MODEL, *TINY_RUN, "data=folder", "data.path=same"], ["identical"]),
    "two channels": (
        ["model.pretrained=two-channels"],
        ["two-channels", "2 channels in and 2 out: choose", "on RGB pixels"],
    ),
    "no number": (["optimizer.lr=x"], ["optimizer.lr=x must be a number"]),
    "neither true nor false": ([*SMALL, "profile=perhaps"], ["profile=perhaps must be true or false"]),
    "another program": (["optimizer._target_=os.system"], ["optimizer._target_=os.system cannot be used"]),
    "no list": (["optimizer.betas={a:1}"], ["optimizer.betas"]),
    "a schedule without end": (["trainer.max_steps=-1"], ["lr_schedule=cosine needs an end"]),
    "a name that leads out": (["name=../x/y"], ["name=../x/y cannot be a folder's name"]),
    "no run's name": (["resume=5"], ["resume=5"]),
    "processes by the hundred": ([*SMALL, "trainer.devices=900"], ["trainer.devices=900", "CPU cores"]),
    "no step": (["trainer.max_steps=0"], ["trainer.max_steps=0 would train for no steps"]),
    "in a sweep": (["-m", "data.imge_size=64,32"], ["data.imge_size", "data.image_size"]),
}
SAMPLE = {
    "misspelt scheduler": (["scheduler=ddmi"], ["scheduler=ddmi", "did you mean dd", "ddim, ddpm"]),
    "unknown key": (["step=20"], ["step", "steps"]),
    "no images": (["n=0"], ["n=0"]),
    "no model folder": (["model.pretrained=empty"], ["model.pretrained=empty"]),
    "folder in use": (["model.pretrained=eps-model", "out=one"], ["out=one"]),
    "size it cannot halve": (["model.pretrained=eps-model", "image_size=17"], ["17", "16 or 18"]),
    "too many steps": (["model.pretrained=eps-model", "steps=2000"], ["steps=2000", "1000"]),
    "no number": (["steps=x"], ["steps=x must be a whole number from 1 to 100000; the default is 20."]),
    "more images than anybody wants": (["n=1000000000"], ["n=1000000000 must be a whole number from 1 to 1000000"]),
    "a pipe": (["task=img2img", "task.image=pipe"], ["task.image=pipe"]),
    "out is a file": (["out=one/a.png"], ["out=one/a.png cannot be used: one/a.png is a file."]),
    "out below a file": (["out=one/a.png/b"], ["out=one/a.png/b cannot be used: one/a.png is a file."]),
    "out where no folder can be": (["out=/proc/none/b"], ["out=/proc/none/b cannot be used: No such file"]),
    "path without its group": (["data.path=one"], ["data.path", "data=folder or data=hub"]),
    "too large a seed": (
        ["seed=9223372036854775808"],
        ["seed=9223372036854775808 must be a whole number from 0 to 42949"],
    ),
    "bf16 weights": (["model.pretrained=eps-model", "trainer.precision=bf16-true"], ["use bf16-mixed"]),
    "unknown device": (["model.pretrained=eps-model", "trainer.accelerator=tpu"], ["trainer.accelerator=tpu"]),
}


@pytest.fixture
def places(tmp_path, model_folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "one" / "a.png")
    for name in "ab":
        (tmp_path / "same").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "same" / f"{name}.png")
    os.mkfifo(tmp_path / "pipe")
    two = DDPMPipeline(unet=tiny_unet(in_channels=2, out_channels=2), scheduler=DDPMScheduler())
    two.save_pretrained(tmp_path / "two-channels")
    model_folder.rename(tmp_path / "eps-model")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "case"), [("train", c) for c in TRAIN] + [("sample", c) for c in SAMPLE], ids=lambda value: value
)
def test_mistake(run, places, capfd, program, case):
    overrides, says = {"train": TRAIN, "sample": SAMPLE}[program][case]
    before = {p: p.stat().st_mtime_ns for p in places.rglob("*")}
    assert run(program, *overrides) == 2
    error = capfd.readouterr().err
    for words in says:
        assert words in error
    assert "Traceback" not in error
    lines = [
        line for line in error.strip().splitlines() if not line.startswith(("on ", "model: ", "data: ", "The model"))
    ]
    assert len(lines) == 1, lines
    assert {p: p.stat().st_mtime_ns for p in places.rglob("*")} == before


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["name=file"], "name=file cannot be used: runs/file is a file. Choose another name"),
        (["resume=runs/file"], "resume=runs/file cannot be used: runs/file is a file."),
        (["-m", "name=file", "seed=1,2"], "name=file cannot be used: runs/file is a file."),
        (["hydra.run.dir=runs/file/x"], "hydra.run.dir=runs/file/x cannot be used: runs/file is a file."),
    ],
)
def test_a_file_in_the_place_of_a_run_is_named_by_its_key(run, tmp_path, capfd, typed, says):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").write_text("mine")
    assert run("train", *typed) == 2
    error = capfd.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["runs", "file"]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("train", "runs/ cannot be written into: runs is a file. Give hydra.run.dir=FOLDER."),
        ("sample", "samples/ cannot be written into: samples is a file. Give out=FOLDER."),
    ],
)
def test_a_file_in_the_place_of_all_of_them_is_named(run, tmp_path, capfd, program, says):
    (tmp_path / says.partition("/")[0]).write_text("mine")
    assert run(program) == 2
    assert capfd.readouterr().err == f"{says}\n"


OF_RUNS = {
    "a mistyped run": ("train", "model.pretrained=runs/frist", "does not exist. Did you mean runs/first?"),
    "a mistyped name": ("sample", "model.pretrained=frist", "=frist does not exist. Did you mean first?"),
    "no export yet": ("sample", "model.pretrained=first", "resume=runs/first finishes it"),
    "a checkpoint": ("train", "model.pretrained=runs/first/checkpoints/last.ckpt", "give the run's, runs/first."),
    "a mistyped resume": ("train", "resume=runs/frist", "resume=runs/frist does not exist. Did you mean runs/first?"),
    "a name to resume": ("train", "resume=first", "resume=runs/first cannot be resumed"),
    "which model it is": (
        "sample",
        "task=img2img task.image=none.png",
        "model: runs/second/pipeline, of the newest run",
    ),
}


@pytest.mark.parametrize("case", OF_RUNS)
def test_mistake_about_a_run(run, places, capfd, case):
    program, typed, says = OF_RUNS[case]
    (places / "runs" / "first" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (places / "runs" / "first" / name).touch()
    shutil.copytree(places / "eps-model", places / "runs" / "second" / "pipeline")
    assert run(program, *typed.split(" ")) == 2
    assert says in capfd.readouterr().err


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "", "x" * 300, "'a\nb'"])
def test_a_name_that_cannot_be_a_folder_is_refused(run, places, capfd, name):
    assert run("train", f"name={name}") == 2
    error = capfd.readouterr().err
    assert "name" in error
    assert "Traceback" not in error
    assert not list(places.rglob("config.yaml"))


@pytest.mark.parametrize("program", ["train", "sample"])
def test_version_help_and_flags_between_overrides(run, capfd, program):
    assert run(program, "--version") == 0
    assert capfd.readouterr().out == f"chrysalis {chrysalis.__version__}\n"
    assert run(program, "help") == 0
    assert f"python {program}.py" in capfd.readouterr().out
    assert run(program, "n=1", "-m", "data.imge_size=2") == 2  # a flag between overrides
    assert "is not a known key" in capfd.readouterr().err


def test_debug_shows_the_traceback(run, places, capfd):
    assert run("train", "data=folder", "data.path=not/there", "debug=true") == 2
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("program", ["train", "sample"])
def test_help_is_quick_and_complete(program):
    """It imports no torch, and shows groups, keys and examples."""
    before = os.times()
    words = [sys.executable, "-X", "importtime", REPOSITORY / f"{program}.py", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    used = os.times()
    seconds = used.children_user + used.children_system - before.children_user - before.children_system
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in modules
    assert modules.isdisjoint({"torch", "diffusers", "lightning", "datasets", "matplotlib"})
    assert done.stdout.split("Examples")[1].split("All keys")[0].count(f"  python {program}.py") >= 5
    assert "scheduler" in done.stdout
    assert "model.pretrained" in done.stdout
    assert "APP_CONFIG_GROUPS" not in done.stdout
    if program == "sample":
        for group in ("model", "scheduler", "task", "guidance"):
            for leaf in (REPOSITORY / "conf" / group).glob("*.yaml"):
                assert leaf.stem in done.stdout
    assert seconds < 5  # of CPU time; it takes 0.7
