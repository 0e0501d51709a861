"""Files for other people name no folder of this machine and no user."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import TINY_RUN
from PIL import Image

from chrysalis.models import export, location
from chrysalis.system import files
from chrysalis.system.records import all_public, leaves, public

USER, DEEP = "zaphod", "deep_folder"


@pytest.fixture
def home(tmp_path_factory, monkeypatch) -> Path:
    at = tmp_path_factory.mktemp(USER)
    monkeypatch.setenv("HOME", str(at))
    return at


def test_a_path_is_relative_or_its_last_name(tmp_path, monkeypatch, home):
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    for text, expected in {
        f"python train.py 'data.path={home}/My Photos/cats' name=a": "python train.py 'data.path=.../cats' name=a",
        f"a=[{home}/x/y,/p/q] b=~/c/d out=/e/f g=h/i": "a=[.../y,.../q] b=.../d out=.../f g=h/i",
        f"  path: {home}/x\n  of: /srv/data/": "  path: .../x\n  of: .../data/",
        f"{tmp_path}/place/runs/a": "runs/a",
        f"{tmp_path}/placement/a": ".../a",
        f"{files.REPOSITORY}/assets/moths-64": "assets/moths-64",
        f"my={home}": "my=~",
        "/opt/me/my_loss.py:loss": ".../my_loss.py:loss",
    }.items():
        assert public(text) == expected
        assert public(expected) == expected, "what is public stays as it is"
    same = ["../x/y", "google/ddpm-celebahq-256", "https://a.b/c/d", "1/2/3", "a /b", "assets/moths-64", "runs/a/b"]
    assert [public(text) for text in same] == same
    assert all_public({"/a/b": [1, ("/c/d", None)]}) == {".../b": [1, [".../d", None]]}
    monkeypatch.chdir("/")
    assert USER not in public(f"x={home}/y"), "relative to / it would still be there"


def test_leaves_are_the_values_by_key():
    assert leaves({"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": None, "g": {}}) == {
        "a.b.c": 1,
        "a.d": [{"e": 2}],
        "f": None,
    }


def told(path: Path) -> str:
    """The text of a file: of a PNG file its metadata."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            return json.dumps(image.text)
    return path.read_bytes().decode("latin-1")


def test_nothing_that_is_shared_names_a_folder_or_a_user(run, model_folder, image_folder, home, tmp_path, capfd):
    deep = home / DEEP
    photos = shutil.copytree(image_folder, deep / "my_photos")
    model = shutil.copytree(model_folder, deep / "my_model")
    small = ["data.image_size=16", "export.report=true", "trainer.max_steps=2", "name=a"]
    words = [f"model.pretrained={model}", "data=folder", f"data.path={photos}"]
    assert run("train", *words, *TINY_RUN, *small) == 0
    draw = ["sample", f"model.pretrained={model}", "n=1", "steps=2"]
    assert run(*draw, "out=drawn") == 0

    a, shared = tmp_path / "runs" / "a", []
    for path in [*a.rglob("*"), *(tmp_path / "drawn").iterdir()]:
        if path.is_file() and path.name != "config.yaml" and path.suffix != ".ckpt":
            shared.append(path.name)
            for private in (USER, DEEP, str(home.parent)):
                assert private not in told(path), path
    assert {"report.html", "results.json", "README.md", "settings.json", "seed_00000.png", "grid.png"} <= set(shared)
    assert any(name.startswith("events.") for name in shared)
    assert str(photos) in (a / "config.yaml").read_text(), "which is private, and continues the run"
    text = (a / "pipeline" / "README.md").read_text()
    assert "# my_photos, 16 x 16 px" in text
    assert "fine-tuned from `.../my_model` on my_photos" in text
    assert "base_model" not in text
    assert "data.path=.../my_photos" in text
    assert location.base_of(str(a / "pipeline")) == str(model), "its run knows"

    image = "from=drawn/seed_00000.png"
    capfd.readouterr()
    assert run("sample", image, "out=again") == 2
    assert "model.pretrained=.../my_model, from outside the working folder" in capfd.readouterr().err
    assert run("sample", image, f"model.pretrained={model}", "out=again") == 0
    pixels = [Image.open(tmp_path / out / "seed_00000.png").tobytes() for out in ("again", "drawn")]
    assert pixels[0] == pixels[1]
    assert "changed" not in capfd.readouterr().err
    assert run(*draw, "out=drawn") == 0, "its own folder is known again"


RESULTS = {"best_step": 1, "steps": 2, "val_loss": 0.1, "base_val_loss": 0.2, "final_train_loss": 0.3}
RESULTS |= {"verdict": "", "images_per_second": 1, "precision": "", "seconds": 1, "hardware": "", "versions": {}}
RESULTS |= {"command": "python train.py", "continued_by": []}


@pytest.mark.parametrize(
    ("origin", "said", "base"),
    [
        ("google/ddpm-celebahq-256", "fine-tuned from `google/ddpm-celebahq-256` on", "google/ddpm-celebahq-256"),
        ("assets/moths-64", "fine-tuned from `assets/moths-64` (bundled with Chrysalis) on", None),
        (str(files.REPOSITORY / "assets/moths-64"), "fine-tuned from `assets/moths-64` (bundled", None),
        ("/srv/models/mine", "fine-tuned from `.../mine` on", None),
        (None, "trained from scratch on", None),
    ],
)
def test_the_base_model_of_a_card_is_a_hub_id_or_not_there(tmp_path, origin, said, base):
    text = export.card(RESULTS, "12 % lower than", origin, "drawn moths", (64, 64))
    assert said in text
    assert [line[12:] for line in text.splitlines() if line.startswith("base_model:")] == ([base] if base else [])
    (tmp_path / "README.md").write_text(text)
    known = base or ("assets/moths-64" if origin and "moths" in origin else None)
    assert location.base_of(str(tmp_path)) == known
