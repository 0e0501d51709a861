"""Models of a local hub: which requests are made, and how refusals are reported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_unet
from loopback import SHA, Repository
from safetensors.torch import load, save

from chrysalis.models import export, folder, location
from chrysalis.system.errors import UserError

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def model(served, _made):
    """Put the tiny pipeline on the hub as me/model."""
    served.repositories["me/model"] = Repository().take(_made / "model")
    return served.repositories["me/model"]


def refusal(call=None, name: str = "me/model", **how) -> str:
    with pytest.raises(UserError) as error:
        folder.load(name, **how) if call is None else call()
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"model.pretrained={name} ") or call is not None
    assert text.count(". ") <= 1
    return text


def weights_of(model: Repository) -> dict:
    return load(model.files[f"{UNET}.safetensors"])


def test_a_model_is_fetched_once_and_then_read_from_the_cache(served, model, capfd):
    expected = weights_of(model)
    model.files |= {"other.safetensors": b"not needed", "unet/diffusion_pytorch_model.bin": b"nor this"}
    loaded = folder.load("me/model")
    assert loaded.origin == "me/model"
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.unet.state_dict().items())
    assert not [request for request in served.seen if "other" in request or request.endswith(".bin")]
    served.seen.clear()
    folder.load("me/model")
    assert served.seen == []


def test_only_the_weights_of_its_own_kind_are_there(served, model, tmp_path, capsys):
    expected = weights_of(model)
    whole = model.files.pop(f"{UNET}.safetensors")
    torch.save(expected, tmp_path / "weights.bin")
    bin = (tmp_path / "weights.bin").read_bytes()
    half = save({name: w.half() for name, w in expected.items()}, {"format": "pt"})
    served.repositories["me/bin"] = Repository({**model.files, f"{UNET}.bin": bin})
    served.repositories["me/half"] = Repository({**model.files, f"{UNET}.fp16.safetensors": half})
    loaded = folder.load("me/bin").unet.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.items())
    loaded = folder.load("me/half").unet.state_dict()
    assert all(torch.equal(weight, expected[name].half().float()) for name, weight in loaded.items())
    assert "model.pretrained=me/half has only fp16 weights, which are loaded." in capsys.readouterr().err
    served.seen.clear()
    folder.load("me/half")
    assert served.seen == []
    # the hub has the plain ones, and the cache those of a variant
    both = Repository({**model.files, f"{UNET}.safetensors": whole, f"{UNET}.fp16.safetensors": half})
    served.repositories["me/both"] = both
    loaded = folder.load("me/both", variant="fp16").unet.state_dict()
    assert all(torch.equal(weight, expected[name].half().float()) for name, weight in loaded.items())
    loaded = folder.load("me/both").unet.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.items())


@pytest.mark.parametrize(
    ("answer", "token", "says"),
    [
        ((401, "RepoNotFound", "Invalid username or password."), False, "no public model of that id: check the id, or"),
        ((401, "RepoNotFound", "User Access Token is expired"), True, "token, which is invalid or has expired: set"),
        ((401, None, "Invalid credentials in Authorization header"), True, "token, which is invalid or has expired"),
        ((404, "RepoNotFound", "Repository not found"), True, "the hub has no such model: check the id, or make a to"),
        ((401, "GatedRepo", "Access is restricted"), False, "gated: accept its licence at {url}/me/model and set HF_T"),
        ((403, "GatedRepo", "You are not in the list"), True, "accept its licence at {url}/me/model and wait for acce"),
        ((403, None, "Forbidden"), True, "your token may not read it (HTTP 403): give it read permission at {url}/se"),
        ((403, None, "Access to this resource is disabled."), False, "the hub has disabled it"),
        ((429, None, None), False, "too many requests (HTTP 429): wait some minutes"),
        ((503, None, None), False, "the hub answers with HTTP 503: run the command again later"),
    ],
)
def test_a_refusal_names_its_cause_and_its_remedy(served, model, monkeypatch, answer, token, says, capfd):
    model.answer = answer
    if token:
        monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    assert says.format(url=served.url) in refusal()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_unknown_ids_and_revisions_are_refused(served, model):
    assert "no public model of that id: check the id" in refusal(name="me/nothing")
    assert "it has no revision v9: name one of its branches, tags or commits" in refusal(revision="v9")


def test_a_refusal_ends_the_command_with_one_sentence_and_exit_code_2(served, run, capfd):
    assert run("sample", "model.pretrained=me/none", "n=1") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("model.pretrained=me/none could not be fetched from the hub: the hub has no public model")
    assert err.count("\n") == 1
    assert not list(Path.cwd().glob("samples*"))


def test_a_file_that_breaks_off_is_fetched_by_the_next_command(served, model, capfd):
    model.cut = {f"{UNET}.safetensors"}
    assert "the connection broke off: run the same command again" in refusal()
    assert "Error while downloading" not in capfd.readouterr().err
    model.cut.clear()
    served.seen.clear()
    assert folder.load("me/model").prediction == "epsilon"
    assert [r for r in served.seen if "resolve" in r and r.startswith("GET")] == [
        f"GET me/model/resolve/{SHA}/{UNET}.safetensors"
    ]


def with_settings(data: bytes, **settings) -> bytes:
    return json.dumps({**json.loads(data), **settings}).encode()


def test_another_kind_of_model_is_named_before_its_weights_are_fetched(served, model):
    config = "unet/config.json"
    model.files[config] = with_settings(model.files[config], _class_name="AutoencoderKL")
    assert (
        "holds AutoencoderKL: choose a model such as google/ddpm-celebahq-256, a DDPM UNet2DModel on RGB pixels"
        in refusal()
    )
    served.repositories["me/bert"] = Repository({"config.json": b'{"architectures": ["BertModel"]}'})
    assert "holds a BertModel of transformers" in refusal(name="me/bert")
    index = with_settings(model.files["model_index.json"], vae=["diffusers", "AutoencoderKL"])
    served.repositories["me/latent"] = Repository({**model.files, "model_index.json": index})
    assert "names vae in its model_index.json" in refusal(name="me/latent")
    bare = {name: data for name, data in model.files.items() if not name.startswith("scheduler/")}
    served.repositories["me/bare"] = Repository(
        {**bare, config: with_settings(bare[config], _class_name="UNet2DModel")}
    )
    assert "has no scheduler_config.json" in (says := refusal(name="me/bare"))
    assert "Give the scheduler that it was trained with as model.scheduler=" in says
    served.repositories["me/empty"] = Repository({"README.md": b"nothing"})
    assert "is not a diffusers folder" in refusal(name="me/empty")
    assert not [request for request in served.seen if request.endswith(".safetensors")]


def test_weights_of_the_hub_are_checked_as_local_ones_are(served, model):
    weights = weights_of(model)
    gap = save({name: w for name, w in weights.items() if name != "conv_in.bias"}, {"format": "pt"})
    nan = save({**weights, "conv_in.bias": torch.full((8,), torch.nan)}, {"format": "pt"})
    for name, data, says in (("gap", gap, "are missing"), ("nan", nan, "hold values that are not finite")):
        served.repositories[f"me/{name}"] = Repository({**model.files, f"{UNET}.safetensors": data})
        assert f"conv_in.bias {says}" in refusal(name=f"me/{name}")


def test_a_revision_is_a_key_or_part_of_the_id(served, model, model_folder):
    other = tiny_unet(7)
    other.save_pretrained(model_folder / "unet")

    old, new = Repository(dict(model.files)), Repository().take(model_folder)
    old.revisions, new.revisions = {"main": "1" * 40}, {"refs/pr/1": "2" * 40}
    served.repositories["me/model"] = old
    main = folder.load("me/model")
    served.repositories["me/model"] = new
    for asked in ({"pretrained": "me/model", "revision": "refs/pr/1"}, {"pretrained": "me/model@refs/pr/1"}):
        loaded = folder.load(**asked)
        assert loaded.origin == "me/model@refs/pr/1"
        assert torch.equal(loaded.unet.conv_in.weight, other.conv_in.weight)
        assert not torch.equal(main.unet.conv_in.weight, other.conv_in.weight)
    results = dict.fromkeys(("best_step", "steps", "images_per_second", "precision", "hardware", "command"), "")
    results |= dict.fromkeys(("val_loss", "base_val_loss", "final_train_loss", "seconds"), 0.0) | {"verdict": ""}
    text = export.card(results | {"versions": {}, "continued_by": []}, "lower than", loaded.origin, "images", (16, 16))
    assert "\nbase_model: me/model\nbase_model_revision: refs/pr/1\n---\n" in text
    (model_folder / "README.md").write_text(text)
    assert location.base_of(str(model_folder)) == "me/model@refs/pr/1"
    says = refusal(lambda: folder.load(str(model_folder), revision="main"))
    assert says.startswith("model.revision=main is for a hub id, and model.pretrained=")


def test_a_scheduler_from_elsewhere(served, model, model_folder, tmp_path):
    """model.scheduler is a folder or another repository, for a UNet that was saved alone."""
    bare = {name.removeprefix("unet/"): data for name, data in model.files.items() if name.startswith("unet/")}
    served.repositories["me/bare"] = Repository(bare)
    config = with_settings(model.files["scheduler/scheduler_config.json"], beta_end=0.03)
    served.repositories["me/noise"] = Repository({"scheduler_config.json": config})
    loaded = folder.load("me/bare", scheduler="me/noise")
    assert loaded.scheduler.config["beta_end"] == 0.03
    shutil.copytree(model_folder / "unet", tmp_path / "alone")
    assert folder.load(str(tmp_path / "alone"), scheduler="me/noise").scheduler.config["beta_end"] == 0.03
    own = folder.load(str(tmp_path / "alone"), scheduler=str(model_folder)).scheduler
    assert own.config["beta_end"] == folder.load(str(model_folder)).scheduler.config["beta_end"]
    with pytest.raises(UserError, match=r"model\.scheduler=.* has no scheduler_config\.json: give the folder"):
        folder.load(str(tmp_path / "alone"), scheduler=str(tmp_path))
    with pytest.raises(UserError, match=r"model\.scheduler=me/none could not be fetched from the hub"):
        folder.load("me/bare", scheduler="me/none")
