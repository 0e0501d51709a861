"""Every command on README and on the pages of docs/ runs, made small, or is composed and checked."""

import re
import shlex
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import CONF, REPOSITORY, TINY_RUN, tiny_clip, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from test_conf import filled

from chrysalis.command import values
from chrysalis.sampling.guidance.energies import Energy
from chrysalis.training.callbacks.base import Callback

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += [page for page in sorted((REPOSITORY / "docs").glob("*.md")) if page.name != "log.md"]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
GROUPS = {folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"hydra", "scheduler"}


def lines(text: str) -> list[str]:
    """The commands of a page: the lines of its shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def inline(text: str, program: str) -> list[str]:
    """The commands within sentences that start with `python` and a program, a regular expression."""
    sentences = " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    return re.findall(rf"`(python {program}[^`…]*)`", sentences)


def program_of(command: str) -> str:
    return shlex.split(command)[1].removesuffix(".py")


def signature(command: str) -> tuple:
    """What makes a command worth a run of its own: its keys and its choices of groups, not the other values."""
    words = [word.partition("=") for word in shlex.split(command)[1:]]
    return tuple(sorted(key + (equals + value) * (key in GROUPS) for key, equals, value in words))


COMMANDS = list(dict.fromkeys(command for text in TEXTS.values() for command in lines(text)))
PROGRAMS = [c for c in COMMANDS if c.startswith(("python train.py", "python sample.py"))]
FIRST_OF_ITS_KIND = list({signature(c): c for c in reversed(PROGRAMS)}.values())[::-1]
MODULES = [c for c in COMMANDS if re.match(r"python -?m? ?(benchmarks|chrysalis)", c)]
MODULES += [command for text in TEXTS.values() for command in inline(text, r"-?m? ?benchmarks")]
INLINE = list(dict.fromkeys(c for text in TEXTS.values() for c in inline(text, r"(?:train|sample)\.py ")))

SMALL_TRAIN = [*TINY_RUN, "data.batch_size=2", "trainer.max_steps=1", "callbacks.samples.n=1"]
SMALL_TRAIN += ["callbacks.samples.steps=1", "callbacks.validation.n_images=1", "callbacks.validation.timesteps=1"]
MODELS = {"first": [], "early": [], **{name: [f"condition={name}"] for name in ("label", "mask", "text")}}


def slow(command: str) -> bool:
    """Whole experiments; sweeps of train.py, which run four jobs or more; a preflight (see test_preflight.py)."""
    long = "train.py -m" in command or "preflight=" in command
    return long or (program_of(command) == "train" and command in lines(TEXTS["experiments.md"]))


def is_run(command: str) -> bool:
    """One command of each kind; not those that need the hub, or models that only an experiment trains."""
    named = re.findall(r"(?:runs|evaluated)/(\w+)", command)
    return command in FIRST_OF_ITS_KIND and "experiment=smithsonian" not in command and set(named) <= set(MODELS)


def with_files(command: str, image_folder) -> list[str]:
    """The words of a command after its program, with placeholders filled in."""
    places = {"path/to/your/images": image_folder, "path/to/your/image.png": "own.png"}
    places |= {"path/to/your/mask.png": "mask.png", "n=50000 ": "", "openai/clip-vit-large-patch14": "clip"}
    for place, here in places.items():
        command = command.replace(place, str(here))
    return shlex.split(command)[2:]


def small_sample(command: str, overrides: list[str]) -> list[str]:
    kept = [o for o in overrides if not o.startswith(("n=", "steps="))]
    kept = [o.replace("devices=2", "devices=1") for o in kept]  # make prove has two processes: tests/test_sample.py
    data = ["data.n=60"] * ("data=butterflies" in overrides)
    return [*kept, *data, *([] if "from=" in command else ["n=2"]), "steps=2"]


def small_train(command: str, overrides: list[str]) -> list[str]:
    """One step from a narrow model; only the first command of all starts from the bundled one."""
    if any(o.startswith("resume=runs") for o in overrides):
        return [*overrides, "trainer.max_steps=5"]
    small = [o for o in SMALL_TRAIN if not (o.startswith("data.batch_size") and "data.batch_size" in command)]
    if not any(o.startswith("data=") for o in overrides):
        small.append("data.n=6" if "image_size=256" in command else "data.n=60")
    own_models = ("model", "experiment=transfer", "experiment=latent")
    if not any(o.startswith(own_models) for o in overrides) and overrides != ["name=first"]:
        small.append("model.pretrained=narrow")
    if "-m" in overrides:  # its jobs in this process: tests/command/test_sweep.py has them as they are
        small.append("hydra/launcher=basic")
    if "experiment=" in command:
        small.append("seed=0")
    if "experiment=latent" in command:
        small += ["data.n=12", "data.image_size=64", "model.autoencoder.steps=1"]
    if "preflight=" in command:
        small.remove("preflight=false")
    return [*overrides, *small]


def smaller(command: str, image_folder) -> list[str]:
    """The overrides of a command, with small settings behind them."""
    overrides = with_files(command, image_folder)
    if "--help" in overrides:
        return overrides
    return (small_train if program_of(command) == "train" else small_sample)(command, overrides)


def prepare_sampling(run, image_folder, tmp_path, command: str) -> None:
    """The files that the sampling commands name; my_loss.py is the page's own."""
    (tmp_path / "my_loss.py").write_text(re.search(r"```python\n(# my_loss.py.*?)```", TEXTS["guide.md"], re.DOTALL)[1])
    image = next(image_folder.rglob("*.png"))
    (tmp_path / "own.png").write_bytes(image.read_bytes())
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (20, 20, 40, 40))
    mask.save(tmp_path / "mask.png")
    if "from=" in command:
        assert run("sample", "model.pretrained=runs/first", "seed=100", "n=4", "steps=2", "out=samples/first") == 0


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A folder with narrow/, a model of four levels as the bundled one, and those of its runs that were needed."""
    at = tmp_path_factory.mktemp("readme")
    four = {"block_out_channels": (8, 8, 16, 16), "down_block_types": ("DownBlock2D",) * 4}
    unet = tiny_unet(sample_size=64, up_block_types=("UpBlock2D",) * 4, **four)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(at / "narrow")
    return at


def test_the_pages_have_commands():
    assert {"make train", "make test"} <= set(COMMANDS)
    assert len([c for c in lines(TEXTS["README.md"]) if c in PROGRAMS]) >= 8
    for page in ("train", "sample", "guide", "condition", "evaluate", "resume_and_sweep", "speed", "reliability"):
        assert set(lines(TEXTS[f"{page}.md"])) & set(PROGRAMS), page


RUN = [pytest.param(c, marks=[pytest.mark.proof] * slow(c)) for c in PROGRAMS if is_run(c)]


@pytest.mark.parametrize("command", RUN)
def test_command(run, image_folder, tmp_path, narrow, command):
    (tmp_path / "assets").symlink_to(REPOSITORY / "assets")
    (tmp_path / "narrow").symlink_to(narrow / "narrow")
    for name, condition in MODELS.items():
        if (
            f"runs/{name}" in command
            or f"samples/{name}/" in command
            or (f"name={name}" in command and "resume=true" in command)
        ):
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
        prepare_sampling(run, image_folder, tmp_path, command)
    assert run(program_of(command), *smaller(command, image_folder)) in (0, None)


@pytest.mark.parametrize("command", [c for c in [*PROGRAMS, *INLINE] if not is_run(c)])
def test_a_command_that_is_not_run_composes(composed, command):
    """Near-duplicates of a command that runs, which differ from it in values; and commands within sentences."""
    typed = [w for w in shlex.split(command)[2:] if "=" in w and not w.startswith(("from=", "resume=", "hydra"))]
    first = (re.sub(r"=([^\[\s]+?),.*", r"=\1", word) if " -m " in command else word for word in typed)
    values.require(filled(composed(program_of(command), *first)))


@pytest.mark.parametrize("command", sorted(set(MODULES)))
def test_a_module_has_the_flags_that_are_shown(command):
    """What they compute is tested in tests/benchmarks and tests/evaluation."""
    words = shlex.split(command)
    name = words[2].replace(".", "/") if words[1] == "-m" else words[1].removesuffix(".py")
    name = f"src/{name}" if name.startswith("chrysalis") else name
    files = [REPOSITORY / f"{name}.py", *sorted((REPOSITORY / name).glob("*.py"))]
    source = "".join(file.read_text() for file in files if file.is_file())
    assert source, command
    assert all(f'"{word}"' in source for word in words if word.startswith("--")), command


def test_the_examples_of_contributing_work():
    """An energy is zero at its target; a callback logs the norm of the weights."""
    energy, callback = re.findall(r"```python\n(.*?)```", TEXTS["CONTRIBUTING.md"], re.DOTALL)[:2]
    names = {"Energy": Energy, "Callback": Callback, "torch": torch}
    exec(energy + callback, names)
    x0 = torch.randn(2, 3, 4, 4)
    x0 = 0.4 * x0 / x0.flatten(1).std(dim=1).view(-1, 1, 1, 1)
    contrast = names["Contrast"](target=0.4, scale=2.0)
    assert contrast.loss(x0, torch.zeros(2), None).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert contrast.loss(2 * x0, torch.zeros(2), None).tolist() == pytest.approx([0.08, 0.08], abs=1e-6)
    logged = {}
    trainer = SimpleNamespace(
        global_step=4, logger=SimpleNamespace(log_metrics=lambda found, step: logged.update(found))
    )
    weights = [("a", torch.tensor([3.0])), ("b", torch.tensor([[4.0]]))]
    module = SimpleNamespace(trainable=lambda: weights, microbatching=SimpleNamespace(window=["a micro-batch"]))
    names["LogWeightNorm"](every_n_train_steps=2).on_train_batch_end(trainer, module, None, None, 0)
    assert not logged, "inside an accumulation window"
    module.microbatching.window.clear()
    names["LogWeightNorm"](every_n_train_steps=2).on_train_batch_end(trainer, module, None, None, 0)
    assert logged == {"train/weight_norm": pytest.approx(5.0)}


def test_the_real_recipe_without_a_network_says_so(run, capfd):
    assert run("train", "experiment=smithsonian") == 2
    assert "no network" in capfd.readouterr().err


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    shown = {c.split()[1] for c in COMMANDS if c.startswith("make ")}
    shown |= {target for text in TEXTS.values() for target in re.findall(r"`make ([a-z]+)`", text)}
    assert {"train", "test", "lint", "prove", "torture", "bench", "gpu"} <= shown
    for target in shown:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
