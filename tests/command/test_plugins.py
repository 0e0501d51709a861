"""plugins=[...]: the user's own callback, source, energy, weighting and optimizer, and mistakes in them."""

import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN
from diffusers import DDPMScheduler
from hydra.utils import instantiate
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chrysalis.command import values
from chrysalis.diffusion.noise import NoiseSchedule
from chrysalis.diffusion.objective import objective

PLUGINS = REPOSITORY / "tests" / "plugins"
TRAINING = ["my_callback", "my_source", "my_weighting", "my_optimizer"]
ALL_FOUR = [
    f"plugins=[{','.join(str(PLUGINS / f'{name}.py') for name in TRAINING)}]",
    "+callbacks.mine._target_=my_callback.WeightNorm",
    *("data._target_=my_source.colours", "~data.domain", "data.n=30"),
    *("weighting=uniform", "weighting._target_=my_weighting.P2", "+weighting.gamma=0.5"),
    *("optimizer._target_=my_optimizer.Lion", "~optimizer.eps", "optimizer.lr=1e-4"),
]


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path):
    """Plugins of other tests may have the same names."""
    modules, path = dict(sys.modules), [*sys.path]
    yield
    for name in {*sys.modules} - {*modules}:
        if str(getattr(sys.modules[name], "__file__", None)).startswith((str(PLUGINS), str(tmp_path))):
            del sys.modules[name]
    sys.path[:] = path


def test_a_run_with_a_callback_a_source_a_weighting_and_an_optimizer_is_trained_and_resumed(run, tmp_path, capfd):
    assert run("train", *TINY_MODEL, *TINY_RUN, *ALL_FOUR, "name=a") == 0
    said = capfd.readouterr().err
    for name in TRAINING:
        assert f"plugin: {name} ({PLUGINS / name}.py)" in said
    assert "data: plain colours" in said
    folder = tmp_path / "runs" / "a"
    assert run("train", "resume=runs/a", "trainer.max_steps=6") == 0
    assert f"plugin: my_callback ({PLUGINS / 'my_callback.py'})" in capfd.readouterr().err
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/weight_norm")] == [1, 2, 3, 4, 5, 6]
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(list(state) == ["momentum"] for state in last["optimizer_states"][0]["state"].values())


def test_a_weighting_is_built_from_its_keys(composed):
    cfg = composed("train", *ALL_FOUR)
    values.require(cfg)
    noise, t = NoiseSchedule(DDPMScheduler().alphas_cumprod), torch.tensor([0, 500, 999])
    weight = instantiate(cfg.weighting)(t, noise, objective("eps"))
    torch.testing.assert_close(weight, 1 / (1 + noise.snr(t)).sqrt())


def test_an_energy_moves_images_and_its_code_is_not_run_for_a_stranger(run, model_folder, tmp_path, capfd):
    sampling = [f"model.pretrained={model_folder}", "n=2", "steps=4"]
    guided = ["+guidance.red._target_=my_energy.Red", "+guidance.red.scale=2"]
    plugin = f"plugins={PLUGINS / 'my_energy.py'}"
    assert run("sample", *sampling, "out=plain") == 0
    assert run("sample", *sampling, plugin, *guided, "out=red") == 0
    assert f"plugin: my_energy ({PLUGINS / 'my_energy.py'})" in capfd.readouterr().err

    def redness(out: str) -> float:
        red, green, blue = np.asarray(Image.open(tmp_path / out / "seed_00000.png"), float).mean((0, 1))
        return 2 * red - green - blue

    assert redness("red") > redness("plain") + 2
    (tmp_path / "mine.py").write_bytes((PLUGINS / "my_energy.py").read_bytes())
    assert run("sample", *sampling, "plugins=mine.py", "+guidance.red._target_=mine.Red", "out=own") == 0
    capfd.readouterr()
    assert run("sample", "from=own/seed_00000.png", "out=again") == 2
    assert "was made with plugins=mine.py, which runs code: add plugins=mine.py if you" in capfd.readouterr().err
    assert run("sample", "from=own/seed_00000.png", "plugins=mine.py", "out=again") == 0
    pixels = [np.asarray(Image.open(tmp_path / out / "seed_00000.png")) for out in ("own", "again")]
    assert (pixels[0] == pixels[1]).all()


def test_a_package_is_found_in_the_working_folder(run, composed, tmp_path):
    (tmp_path / "house_of_mine").mkdir()
    (tmp_path / "house_of_mine" / "__init__.py").write_text("from .rates import slow\n")
    (tmp_path / "house_of_mine" / "rates.py").write_text("import torch\n\n\nclass slow(torch.optim.SGD):\n    pass\n")
    cfg = composed(
        "train",
        "plugins=[house_of_mine]",
        *("optimizer._target_=house_of_mine.slow", "~optimizer.betas", "~optimizer.eps"),
    )
    values.require(cfg)
    optimizer = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 1e-3


CALLBACK = "from lightning import Callback\n\n\nclass Mine(Callback):\n"
WRONG_INIT = f"{CALLBACK}    def __init__(self):\n        self.a.b()\n"
WRONG_HOOK = f"{CALLBACK}    def on_train_start(self, *_):\n        raise ValueError('no moth')\n"
MISTAKES = {
    "syntax": ("def f(:\n", "mine.py:1: invalid syntax."),
    "at import": ("x = 1\ny = x / 0\n", "mine.py:2: ZeroDivisionError: division by zero."),
    "import": ("import no_such_thing\n", "mine.py:1: ModuleNotFoundError: No module named 'no_such_thing'."),
    "leaving": ("raise SystemExit(3)\n", "mine.py:1: SystemExit: 3."),
    "no class": ("", "callbacks.mine._target_=mine.Mine does not exist: correct the name, or leave it out."),
    "constructor": (
        f"{CALLBACK}    def __init__(self):\n        self.a.b()\n",
        "mine.py:6: AttributeError: 'Mine' object",
    ),
    "training": (
        f"{CALLBACK}    def on_train_start(self, *_):\n        raise ValueError('no moth')\n",
        "mine.py:6: ValueE",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_names_file_and_line(run, tmp_path, capfd, mistake):
    code, says = MISTAKES[mistake]
    (tmp_path / "mine.py").write_text(code)
    mine = ["plugins=mine.py", "+callbacks.mine._target_=mine.Mine", "data.n=30", "name=a"]
    assert run("train", *TINY_MODEL, *TINY_RUN, *mine) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith(says)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("plugins=nowhere.py", "plugins: there is no file"),
        ("plugins=[nowhere_at_all]", "plugins: there is no module nowhere_at_all."),
        ("plugins=nowhere_at_all.inside", "plugins: there is no module nowhere_at_all.inside."),
        ("plugins=a/b", "plugins=a/b is neither a package nor a .py file: correct the name."),
        ("plugins='a\nb'", "plugins=a\\nb is neither a package nor a .py file: correct the name."),
        ("plugins=~nobody-here/a.py", "plugins=~nobody-here/a.py cannot be a path (Could not determine home"),
        ("plugins=os", "plugins=os is part of Python: name a package or a .py file of your own."),
        ("plugins=torch.py", "plugins=torch.py has the name of another module, torch: rename the file."),
        ("plugins=[3]", "plugins=[3] must be a string or a list of strings; the default is []."),
        ("plugins=null", "plugins=null must be"),
    ],
)
def test_what_is_no_plugin_is_refused(run, tmp_path, capfd, given, says):
    (tmp_path / "torch.py").touch()
    assert run("train", given) == 2
    assert capfd.readouterr().err.startswith(says)
