"""Every command that the README shows runs, each made small; every picture that it shows is there."""

import re
import shlex

import pytest
from conftest import REPOSITORY, TINY_RUN

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
PROGRAMS = [c for c in COMMANDS if c.startswith("python ")]
SMALL_TRAIN = [*TINY_RUN, "data.batch_size=2", "callbacks.pictures.n=1", "callbacks.pictures.steps=1"]


def smaller(command: str, picture_folder) -> tuple[str, list[str]]:
    """(program, overrides) of a README command, with placeholders filled in and small settings behind."""
    words = shlex.split(command.replace("path/to/your/pictures", str(picture_folder)))
    program, overrides = words[1].removesuffix(".py"), words[2:]
    if "--help" in overrides:
        return program, overrides
    if program == "sample":
        return program, [*overrides, "n=2", "steps=2"]
    small = [o for o in SMALL_TRAIN if not (o.startswith("data.batch_size") and "image_size=256" not in command)]
    if not any(o.startswith("data=") for o in overrides):
        small.append("data.n=30")
    if any(o.startswith("resume=") for o in overrides):
        small = ["trainer.max_steps=5"]
    return program, [*overrides, *small]


def test_the_readme_has_commands():
    assert {"make train", "make test"} <= set(COMMANDS)
    assert len(PROGRAMS) >= 8


@pytest.mark.parametrize("command", [c for c in PROGRAMS if "experiment=smithsonian" not in c and "pretrain" not in c])
def test_readme_command(run, picture_folder, tmp_path, command):
    (tmp_path / "assets").symlink_to(REPOSITORY / "assets")
    needs_run = "runs/first" in command
    if needs_run:
        first = ["name=first", *SMALL_TRAIN, "data.n=30", "trainer.max_steps=2"]
        assert run("train", *first) == 0
    program, overrides = smaller(command, picture_folder)
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
