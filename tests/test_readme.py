"""Every command that the README shows runs, each made small; every image that it shows is there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY_RUN, tiny_clip, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
PROGRAMS = [c for c in COMMANDS if c.startswith("python ")]
SMALL_TRAIN = [*TINY_RUN, "data.batch_size=2", "trainer.max_steps=1", "callbacks.samples.n=1"]
SMALL_TRAIN += ["callbacks.samples.steps=1", "callbacks.validation.n_images=1", "callbacks.validation.timesteps=1"]


def smaller(command: str, image_folder) -> tuple[str, list[str]]:
    """(program, overrides) of a README command, with placeholders filled in and small settings behind.

    Training starts from a narrow model, but for the first command of all, which starts from the bundled one; so does
    sampling, see `bundled`.
    """
    places = {"path/to/your/images": image_folder, "path/to/your/image.png": "own.png"}
    places |= {"path/to/your/mask.png": "mask.png", "n=50000 ": "", "openai/clip-vit-large-patch14": "clip"}
    for place, here in places.items():
        command = command.replace(place, str(here))
    words = shlex.split(command)
    program, overrides = words[1].removesuffix(".py"), words[2:]
    if "--help" in overrides:
        return program, overrides
    if program == "sample":
        if "data=butterflies" in overrides:
            overrides.append("data.n=60")
        kept = [o for o in overrides if not o.startswith(("n=", "steps="))]
        kept = [o.replace("devices=2", "devices=1") for o in kept]  # make prove has two processes: tests/test_sample.py
        return program, [*kept, *([] if "from=" in command else ["n=2"]), "steps=2"]
    small = [o for o in SMALL_TRAIN if not (o.startswith("data.batch_size") and "data.batch_size" in command)]
    if not any(o.startswith("data=") for o in overrides):
        small.append("data.n=6" if "image_size=256" in command else "data.n=60")
    own = any(o.startswith(("model", "experiment=transfer")) for o in overrides)
    if not own and command != "python train.py name=first":
        small.append("model.pretrained=narrow")
    if "-m" in overrides:  # its jobs in this process: tests/command/test_sweep.py has them as they are
        small.append("hydra/launcher=basic")
    if "experiment=" in command:
        small.append("seed=0")
    if any(o.startswith("resume=") for o in overrides):
        small = ["trainer.max_steps=5"]
    return program, [*overrides, *small]


def program_of(command: str) -> str:
    return shlex.split(command)[1].removesuffix(".py")


def prepare_drawing(run, image_folder, tmp_path, command: str) -> None:
    """The files that the drawing commands name; my_loss.py is the page's own."""
    (tmp_path / "my_loss.py").write_text(re.search(r"```python\n(# my_loss.py.*?)```", README, re.DOTALL).group(1))
    image = next(image_folder.rglob("*.png"))
    (tmp_path / "own.png").write_bytes(image.read_bytes())
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (20, 20, 40, 40))
    mask.save(tmp_path / "mask.png")
    if "from=" in command:
        assert run("sample", "model.pretrained=assets/moths-64", "seed=100", "n=4", "steps=2", "out=samples/moths") == 0


PLAIN = next(c for c in PROGRAMS if program_of(c) == "sample" and "assets/moths-64" in c)


def test_the_readme_has_commands():
    assert {"make train", "make test"} <= set(COMMANDS)
    assert len(PROGRAMS) >= 8


MODELS = {"first": [], "early": [], **{name: [f"condition={name}"] for name in ("label", "mask", "text")}}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A folder with narrow/, a model of four levels as the bundled one, and those of its runs that were asked for."""
    at = tmp_path_factory.mktemp("readme")
    four = {"block_out_channels": (8, 8, 16, 16), "down_block_types": ("DownBlock2D",) * 4}
    unet = tiny_unet(sample_size=64, up_block_types=("UpBlock2D",) * 4, **four)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(at / "narrow")
    return at


def weighed(command: str):
    """A sweep of train.py runs four jobs or more: its settings are looked at in tests/test_conf.py meanwhile."""
    return pytest.param(command, marks=[pytest.mark.proof] * ("train.py -m" in command))


def bundled(assets: Path, narrow: Path, command: str) -> None:
    """assets/ as a command finds it. The narrow model stands in moths-64 for sampling that has more than plain samples
    to make: that the bundled one can be sampled from is shown by the command that asks for nothing else."""
    own = program_of(command) == "train" or command == PLAIN
    assets.mkdir()
    for there in (REPOSITORY / "assets").iterdir():
        (assets / there.name).symlink_to(there if own or there.name != "moths-64" else narrow)


@pytest.mark.parametrize("command", [weighed(c) for c in PROGRAMS if "experiment=smithsonian" not in c])
def test_readme_command(run, image_folder, tmp_path, narrow, command):
    bundled(tmp_path / "assets", narrow / "narrow", command)
    (tmp_path / "narrow").symlink_to(narrow / "narrow")
    for name, condition in MODELS.items():
        if f"runs/{name}" in command:
            if not (narrow / "runs" / name).exists():
                small = [*SMALL_TRAIN, *condition, "data.n=60", "model.pretrained=narrow"]
                assert run("train", f"name={name}", *small) == 0
                shutil.copytree(tmp_path / "runs" / name, narrow / "runs" / name)
            elif not (tmp_path / "runs" / name).exists():
                shutil.copytree(narrow / "runs" / name, tmp_path / "runs" / name)
    if "condition.text.encoder" in command:
        tiny_clip(tmp_path / "clip")
        for image in image_folder.rglob("*.png"):
            image.with_suffix(".txt").write_text(f"a {image.parent.name}")
    if program_of(command) == "sample":
        prepare_drawing(run, image_folder, tmp_path, command)
    program, overrides = smaller(command, image_folder)
    assert run(program, *overrides) in (0, None)


def test_the_real_recipe_without_a_network_says_so(run, capfd):
    assert run("train", "experiment=smithsonian") == 2
    assert "no network" in capfd.readouterr().err


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in [c.split()[1] for c in COMMANDS if c.startswith("make ")]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_pictures_and_links_exist():
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (REPOSITORY / name).exists(), name
