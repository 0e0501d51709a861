"""The hub's client against a hub on the loopback address: what is fetched, what is asked, and what a refusal says."""

import io
import json
import logging
import re
import warnings
from pathlib import Path

import datasets
import pytest
import torch
from conftest import tiny_unet
from loopback import SHA, Repository, serving
from PIL import Image
from safetensors.torch import load, save

from chrysalis.conditions import text_encoders
from chrysalis.data.sources.external_files import ExternalFiles
from chrysalis.data.sources.hub import HubSource
from chrysalis.data.store import open_set
from chrysalis.models import card, folder
from chrysalis.system import hub
from chrysalis.system.errors import UserError

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub without repositories, and an empty cache."""
    from huggingface_hub import HfFileSystem, constants
    from huggingface_hub.utils import close_session

    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        config = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_CACHE": tmp_path / "datasets"}
        config |= {"HUB_DATASETS_URL": server.url + "/datasets/{repo_id}/resolve/{revision}/{path}"}
        for name, value in config.items():
            monkeypatch.setattr(f"datasets.config.{name}", value)
        HfFileSystem.clear_instance_cache()
        close_session()
        hub.unreachable.cache_clear()
        yield server
    close_session()
    hub.unreachable.cache_clear()


@pytest.fixture
def model(served, _made):
    """me/model: the tiny pipeline."""
    served.repositories["me/model"] = Repository().take(_made / "model")
    return served.repositories["me/model"]


def refusal(call=None, name: str = "me/model", **how) -> str:
    with pytest.raises(UserError) as error:
        folder.load(name, **how) if call is None else call()
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"model.pretrained={name} ") or call is not None
    assert said.count(". ") <= 1
    return said


def weights_of(model: Repository) -> dict:
    return load(model.files[f"{UNET}.safetensors"])


def test_a_model_is_fetched_once_and_then_asked_for_nothing(served, model, capfd):
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
    assert "model.pretrained=me/half has only fp16 weights: these are taken." in capsys.readouterr().err
    served.seen.clear()
    folder.load("me/half")
    assert served.seen == []
    # the plain ones lie on the hub, and those of a variant in the cache
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
def test_what_the_hub_refuses_has_its_cause_and_its_remedy(served, model, monkeypatch, answer, token, says, capfd):
    model.answer = answer
    if token:
        monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    assert says.format(url=served.url) in refusal()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_an_id_that_is_not_there_and_a_revision_that_is_not(served, model):
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
    assert "holds a AutoencoderKL, and only UNet2DModel can be used" in refusal()
    served.repositories["me/bert"] = Repository({"config.json": b'{"architectures": ["BertModel"]}'})
    assert "holds a BertModel of transformers" in refusal(name="me/bert")
    index = with_settings(model.files["model_index.json"], vae=["diffusers", "AutoencoderKL"])
    served.repositories["me/latent"] = Repository({**model.files, "model_index.json": index})
    assert "looks like latent diffusion" in refusal(name="me/latent")
    bare = {name: data for name, data in model.files.items() if not name.startswith("scheduler/")}
    served.repositories["me/bare"] = Repository(
        {**bare, config: with_settings(bare[config], _class_name="UNet2DModel")}
    )
    assert "has no scheduler_config.json" in (says := refusal(name="me/bare"))
    assert "Save the scheduler that it was trained with" in says
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
    text = card.text(results | {"versions": {}, "continued_by": []}, "lower than", loaded.origin, "images", (16, 16))
    assert "\nbase_model: me/model\nbase_model_revision: refs/pr/1\n---\n" in text
    (model_folder / "README.md").write_text(text)
    assert folder.base_of(str(model_folder)) == "me/model@refs/pr/1"
    says = refusal(lambda: folder.load(str(model_folder), revision="main"))
    assert says.startswith("model.revision=main is for a hub id, and model.pretrained=")


def png(level: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (level, 0, 0)).save(data, "PNG")
    return data.getvalue()


def table(tmp_path, **columns) -> bytes:
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "table.parquet")
    return (tmp_path / "table.parquet").read_bytes()


def reds(source, side: int = 16) -> list[int]:
    return open_set(source, (side, side), "crop").images[:, 0, 0, 0].tolist()


def test_images_by_place_by_hf_address_and_by_http_address(served, tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    web = served.url.replace("127.0.0.1", "localhost")  # another host, as far as a client can tell
    places = ["images/0.png", "hf://datasets/me/other@refs%2Fpr%2F1/a b/1.png", f"{web}/web/2.png"]
    places += [f"{served.url}/datasets/me/images/resolve/main/images/3.png"]
    images = {"data/train.parquet": table(tmp_path, image=places), "images/0.png": png(0), "images/3.png": png(3)}
    served.repositories["datasets/me/images"] = Repository(images)
    served.repositories["datasets/me/other"] = Repository({"a b/1.png": png(1)}, revisions={"refs/pr/1": "3" * 40})
    served.pages["web/2.png"] = png(2)
    assert reds(HubSource("me/images")) == [0, 1, 2, 3]
    assert {token for path, token in served.tokens if path.startswith("web/")} == {None}
    assert {token for path, token in served.tokens if path.endswith("1.png")} == {"Bearer hf_" + "a" * 34}
    served.seen.clear()
    assert reds(HubSource("me/images"), 8) == [0, 1, 2, 3]
    assert [request for request in served.seen if request.endswith(".png") and "me/other" not in request] == []


def test_an_image_that_cannot_be_had_says_why(served, tmp_path, monkeypatch):
    served.repositories["datasets/me/images"] = Repository({"a.png": png(1)})
    files = ExternalFiles(None, "me/images", SHA)
    web = served.url.replace("127.0.0.1", "localhost")
    cases = {
        "b.png": "b.png of me/images: one of its files is not there",
        "hf://datasets/me/nothing/a.png": "a.png of me/nothing: the hub has no public dataset of that id",
        "hf://me/images/a.png": "is not of the form hf://datasets/OWNER/NAME/FILE",
        f"{web}/none.png": f"{web}/none.png: HTTP 401",
        "http://127.0.0.1:1/a.png": "http://127.0.0.1:1/a.png: ",
        "zip://a.png::https://host/a.zip": "lies in an archive",
    }
    for path, says in cases.items():
        with pytest.raises(ValueError, match=re.escape(says)):
            files.read(path)
    for _ in range(4):  # and the one above
        with pytest.raises(ValueError, match="refused"):
            files.read("http://127.0.0.1:1/b.png")
    with pytest.raises(ValueError, match="does not answer"):
        files.read("http://127.0.0.1:1/c.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(1))
    local = ExternalFiles(tmp_path / "set")
    assert local.read("a.png") == png(1)
    for path, says in (("../b.png", "lies outside"), (f"{web}/a.png", "a local dataset is read without network")):
        with pytest.raises(ValueError, match=says):
            local.read(path)


def test_images_whose_blobs_were_pruned_are_fetched_again(served, tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))
    served.repositories["datasets/me/folder"] = Repository({f"train/{i}.png": png(i) for i in range(3)})
    assert reds(HubSource("me/folder")) == [0, 1, 2]
    blobs = list((tmp_path / "hub" / "datasets--me--folder" / "blobs").iterdir())
    assert len(blobs) >= 3
    for blob in blobs:
        blob.unlink()
    served.seen.clear()
    assert reds(HubSource("me/folder"), 8) == [0, 1, 2]
    again = [f"GET datasets/me/folder/resolve/{SHA}/train/{i}.png" for i in range(3)]
    assert sorted(request for request in served.seen if request.startswith("GET")) == again


NAMES = ("red", "dark")


def test_threads_that_are_quiet_at_once_leave_logging_as_it_was():
    """The second enters before the first has left, and leaves after it."""
    first, second = hub.quiet(), hub.quiet()
    before, filters = logging.root.manager.disable, list(warnings.filters)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logging.root.manager.disable == logging.ERROR
    second.__exit__(None, None, None)
    assert (logging.root.manager.disable, list(warnings.filters)) == (before, filters)


def test_a_dataset_has_a_configuration_and_a_revision(served, tmp_path, monkeypatch):
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in NAMES)

    def repository(level: int, revisions: dict) -> Repository:
        files = {"README.md": f"---\nconfigs:\n{configs}---\n".encode()}
        files |= {f"{name}.parquet": table(tmp_path, image=["a.png"], n=[level + i]) for i, name in enumerate(NAMES)}
        return Repository(files, revisions=revisions)

    served.repositories["datasets/me/two"] = repository(1, {"main": "1" * 40})
    says = refusal(lambda: HubSource("me/two"))
    assert "set data.name to one of its configurations, 'red', 'dark'" in says
    assert "set data.name to one of its configurations" in refusal(lambda: HubSource("me/two", configuration="blue"))
    assert HubSource("me/two", configuration="dark", vector_columns=["n"]).rows[0]["n"] == 2
    assert HubSource("me/two", configuration="red", vector_columns=["n"]).rows[0]["n"] == 1
    served.seen.clear()
    assert HubSource("me/two", configuration="dark", vector_columns=["n"]).rows[0]["n"] == 2
    assert served.seen == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    assert re.search("configurations, (red, dark|dark, red)", refusal(lambda: HubSource("me/two")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.unreachable.cache_clear()
    assert "set data.split to one of its splits" in refusal(lambda: HubSource("me/two", "test", configuration="dark"))
    served.repositories["datasets/me/two"] = repository(5, {"v2": "2" * 40})
    for asked in ({"path": "me/two", "revision": "v2"}, {"path": "me/two@v2"}):
        second = HubSource(**asked, configuration="dark", vector_columns=["n"])
        assert second.rows[0]["n"] == 6
        assert second.name == "me/two@v2 (dark)"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    assert "there is no network" in refusal(lambda: HubSource("me/two"))  # of main, and the cache would give v2
    assert HubSource("me/two", configuration="dark", revision="v2", vector_columns=["n"]).rows[0]["n"] == 6
    assert "there is no network" in refusal(lambda: HubSource("me/two", revision="v3", configuration="dark"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.unreachable.cache_clear()
    assert "it has no revision v3" in refusal(lambda: HubSource("me/two", revision="v3", configuration="dark"))
    assert "the hub has no public dataset of that id" in refusal(lambda: HubSource("me/none"))
    served.repositories["datasets/me/two"].answer = (403, "GatedRepo", "not in the list")
    assert f"accept its licence at {served.url}/datasets/me/two" in refusal(lambda: HubSource("me/two@v4"))


def test_text_encoders_have_the_same_causes(served, text_encoder_folder):
    repository = Repository(revisions={"v1": SHA}).take(text_encoder_folder)
    served.repositories["me/clip"] = repository
    tokenizer, encoder = text_encoders.load("me/clip@v1")
    assert (type(encoder).__name__, text_encoders.width(encoder)) == ("CLIPTextModel", 16)
    assert tokenizer("a").input_ids[1] == 26  # a</w>
    cases = {
        "me/clip@v2": "it has no revision v2: name one of its branches, tags or commits",
        "me/none": "the hub has no public model of that id: check the id, or set HF_TOKEN if it is private",
        "me/gated": f"it is gated: accept its licence at {served.url}/me/gated and set HF_TOKEN",
        "me/pickled": "pytorch_model.bin is damaged, or holds more than tensors, and no code in it is run",
    }
    served.repositories["me/gated"] = Repository(answer=(401, "GatedRepo", "restricted"))
    pickled = {name: data for name, data in repository.files.items() if not name.endswith(".safetensors")}
    served.repositories["me/pickled"] = Repository({**pickled, "pytorch_model.bin": b""})
    for name, says in cases.items():
        said = refusal(lambda name=name: text_encoders.load(name))
        assert said.startswith(f"condition.text.encoder={name} could not be loaded as a text encoder: ")
        assert says in said
    assert not [request for request in served.seen if "discussions" in request]  # of a bot that converts in public
