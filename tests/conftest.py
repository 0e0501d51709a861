"""Tiny real objects: a UNet of a few thousand weights, a folder of samples, a run."""

import copy
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 2**32:
    # a run syncs some forty files to the disk: in memory that costs nothing
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # train.py and sample.py, as the tests call them
TINY = ("tiny_unet", "shallow_unet", "tiny_clip", "ClosedForm", "built", "CLIP_SIZE")


def __getattr__(name: str):
    """Import tiny.py when a test needs it: pytest-xdist's main process reads this file too, and needs no torch."""
    if name not in TINY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import tiny

    return getattr(tiny, name)


# Overrides that make any recipe a matter of seconds
TINY_MODEL = ["model=scratch", "model.block_out_channels=[8,16]", "data.image_size=16"]
TINY_RUN = [
    "data.batch_size=4",
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "callbacks.validation.n_images=2",
    "callbacks.validation.timesteps=2",
    "callbacks.validation.every_n_train_steps=2",
    "callbacks.samples.n=2",
    "callbacks.samples.steps=2",
    "callbacks.samples.every_n_train_steps=2",
    "callbacks.checkpoint.every_n_train_steps=100",  # and at the end
    "preflight=false",  # these have tests of their own
    "callbacks.evaluate.n=0",
    "export.report=false",
]
EVALUATED_RUN = [*TINY_MODEL, *TINY_RUN, "data.n=150", "name=a", "trainer.precision=32-true"]
EVALUATED_RUN += [f"callbacks.evaluate.{setting}" for setting in ("n=24", "steps=2", "every_n_train_steps=2")]


# the slowest files begin first, so that no worker is left with one of them at the end
LONGEST = ["readme", "evaluate", "train", "conditional_runs", "conditioner", "memory_estimate", "loop", "sample"]
LONGEST += [
    "gpu_benchmark",
    "compiling",
    "processes",
    "sweep",
    "stopping",
    "checkpoints",
    "out_of_memory",
    "synthetic_insects",
]
LONGEST += ["profiling", "hub_cache"]


def pytest_collection_modifyitems(items: list) -> None:
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    """Exclude libraries and collected tests from garbage collection: they stay until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the figures that proofs found."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "figure":
                terminalreporter.write_line(value)


def real_data() -> Path:
    """The optional folder $CHRYSALIS_PHOTOGRAPHS, with butterflies/ (a folder) and hub_like/ (parquet)."""
    return Path(os.environ.get("CHRYSALIS_PHOTOGRAPHS", "no such folder")).absolute()


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_own_cache(tmp_path_factory):
    import tiny  # noqa: F401 - diffusers whole, before a command imports it without what training never uses
    import torch

    torch.set_num_threads(1)
    os.environ["CHRYSALIS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _compose_once():
    """Merge each choice of files of conf/ once: hundreds of commands choose the same, and get copies.

    Hydra itself composes everything twice, first to find out whether -m is given.
    """
    from hydra._internal import config_loader_impl
    from hydra._internal.hydra import Hydra
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    loader, listed, merged, files = config_loader_impl.ConfigLoaderImpl, {}, {}, {}
    Plugins.instance()  # imports the class of sources anew, as it does with all plugins
    source = SourcesRegistry.instance().resolve("file")
    load = source.load_config
    list_defaults, merge = config_loader_impl.create_defaults_list, loader._compose_config_from_defaults_list

    def sources(repo) -> tuple[str, ...]:
        return tuple(source.path for source in repo.get_sources())

    def create_defaults_list(repo, config_name, overrides_list, **how):
        given = [o for o in overrides_list if not o.is_sweep_override()]
        chooses = [o for o in given if repo.group_exists(o.key_or_group) and not isinstance(o.value(), dict)]
        key = (*sources(repo), config_name, *(o.input_line for o in chooses), *how.items())
        if key not in listed:
            listed[key] = list_defaults(repo, config_name, overrides_list, **how)
        found = copy.copy(listed[key])
        found.config_overrides = [o for o in given if not any(o is choice for choice in chooses)]
        return found

    def compose(self, defaults, repo):
        key = (*sources(repo), repr(defaults))
        if key not in merged:
            merged[key] = merge(self, defaults, repo)
        return copy.deepcopy(merged[key])

    def load_config(self, config_path):
        if Path(self.path) != CONF:
            return load(self, config_path)
        if config_path not in files:
            files[config_path] = load(self, config_path)
        return copy.deepcopy(files[config_path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_config", load_config)
        patch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)
        patch.setattr(config_loader_impl, "create_defaults_list", create_defaults_list)
        patch.setattr(loader, "_compose_config_from_defaults_list", compose)
        yield


@pytest.fixture(scope="session")
def text_encoder_folder(tmp_path_factory) -> Path:
    """A transformers CLIP, whose text half is a text encoder."""
    from tiny import tiny_clip

    return tiny_clip(tmp_path_factory.mktemp("encoder") / "clip")


@pytest.fixture
def denoiser():
    from diffusers import DDPMScheduler
    from tiny import tiny_unet

    from chrysalis.denoiser import Denoiser
    from chrysalis.diffusion.objective import objective

    return Denoiser(tiny_unet().eval(), DDPMScheduler(), objective("epsilon"))


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    """model/ and images/, made once: each test gets copies."""
    from diffusers import DDPMPipeline, DDPMScheduler
    from PIL import Image
    from tiny import tiny_unet

    from chrysalis.data.synthetic.domains import draw, species_names

    at = tmp_path_factory.mktemp("made")
    DDPMPipeline(unet=tiny_unet(), scheduler=DDPMScheduler()).save_pretrained(at / "model")
    names = species_names("butterflies")
    for i in range(24):
        drawn = draw("butterflies", i, size=32)
        folder = at / "images" / names[drawn.label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(folder / f"{i}.png")
    return at


@pytest.fixture
def model_folder(_made, tmp_path) -> Path:
    return Path(shutil.copytree(_made / "model", tmp_path / "model"))


@pytest.fixture
def tiny_features(_made) -> list[str]:
    """Settings of a tiny feature network: the model of model_folder."""
    return [f"features.pretrained={_made / 'model'}", "features.size=16"]


@pytest.fixture
def image_folder(_made, tmp_path) -> Path:
    """24 drawn butterflies as PNG files, in a folder per species."""
    return Path(shutil.copytree(_made / "images", tmp_path / "images"))


@pytest.fixture(scope="session")
def _stock(tmp_path_factory):
    env = {**os.environ, "HF_HOME": str(tmp_path_factory.mktemp("hf")), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", str(REPOSITORY / "tests" / "stock.py")]
    with subprocess.Popen(words, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def stock(_stock):
    """stock(script, folder, *arguments) runs a script in a process that has diffusers and no Chrysalis."""

    def call(script: str, folder: Path, *arguments) -> None:
        asked = {"script": script, "folder": str(folder), "arguments": [str(a) for a in arguments]}
        print(json.dumps(asked), file=_stock.stdin, flush=True)
        code = _stock.stdout.readline().strip()
        assert code == "0", (Path(folder) / "stock.txt").read_text()

    return call


CONF = REPOSITORY / "conf"


@pytest.fixture
def composed(tmp_path):
    """composed(program, *overrides) -> a configuration that takes further keys, with tmp_path as the run's folder."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    def compose_(program: str, *overrides: str):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(program, overrides=[*overrides])
        OmegaConf.set_struct(cfg, False)
        if "run_dir" in cfg:
            cfg.run_dir = str(tmp_path)
        return cfg

    return compose_


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(program, *overrides) calls train.py or sample.py in an empty folder; returns (exit code, folder)."""
    monkeypatch.chdir(tmp_path)

    def call(program: str, *overrides: str) -> int:
        import importlib

        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{program}.py", *overrides])
        module = importlib.import_module(program)
        try:
            getattr(module, program)()
        except SystemExit as stop:
            return stop.code
        return 0

    return call


_trained: dict[tuple[str, ...], Path] = {}


@pytest.fixture
def trained(run, tmp_path, tmp_path_factory):
    """trained(*overrides) -> the folder of a run; trained for the first test that asks, copied for the others."""

    def call(*overrides: str) -> Path:
        name = next(o.removeprefix("name=") for o in reversed(overrides) if o.startswith("name="))
        folder = tmp_path / "runs" / name
        if overrides in _trained:
            shutil.copytree(_trained[overrides], folder)
        else:
            assert run("train", *overrides) == 0
            kept = tmp_path_factory.mktemp("trained") / name
            _trained[overrides] = shutil.copytree(folder, kept)
        return folder

    return call


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A local hub without repositories, and an empty cache."""
    from loopback import serving_as_the_hub

    with serving_as_the_hub(tmp_path, monkeypatch) as server:
        yield server


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())
