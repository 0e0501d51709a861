"""Datasets and text encoders of a local hub: which requests are made, and how refusals are reported."""

import io
import logging
import re
import warnings

import datasets
import pytest
from loopback import SHA, Repository
from PIL import Image

from chrysalis.conditions.kinds.text import load_encoder
from chrysalis.data.sources.external_files import ExternalFiles
from chrysalis.data.sources.hub import hub_data
from chrysalis.data.store import open_set
from chrysalis.system import hub
from chrysalis.system.errors import UserError


def refusal(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert text.count(". ") <= 1
    return text


def png(level: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (level, 0, 0)).save(data, "PNG")
    return data.getvalue()


def table(tmp_path, **columns) -> bytes:
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "table.parquet")
    return (tmp_path / "table.parquet").read_bytes()


def reds(source, side: int = 16) -> list[int]:
    return open_set(source, (3, side, side), "crop").images[:, 0, 0, 0].tolist()


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
    assert reds(hub_data("me/images").source) == [0, 1, 2, 3]
    assert {token for path, token in served.tokens if path.startswith("web/")} == {None}
    assert {token for path, token in served.tokens if path.endswith("1.png")} == {"Bearer hf_" + "a" * 34}
    served.seen.clear()
    assert reds(hub_data("me/images").source, 8) == [0, 1, 2, 3]
    assert [request for request in served.seen if request.endswith(".png") and "me/other" not in request] == []


def test_an_unreadable_image_says_why(served, tmp_path, monkeypatch):
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
    for _ in range(4):  # and the request above
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
    assert reds(hub_data("me/folder").source) == [0, 1, 2]
    blobs = list((tmp_path / "hub" / "datasets--me--folder" / "blobs").iterdir())
    assert len(blobs) >= 3
    for blob in blobs:
        blob.unlink()
    served.seen.clear()
    assert reds(hub_data("me/folder").source, 8) == [0, 1, 2]
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
    says = refusal(lambda: hub_data("me/two").source)
    assert "set data.name to one of its configurations, 'red', 'dark'" in says
    assert "set data.name to one of its configurations" in refusal(lambda: hub_data("me/two", name="blue").source)
    assert hub_data("me/two", name="dark", vector_columns=["n"]).source.rows[0]["n"] == 2
    assert hub_data("me/two", name="red", vector_columns=["n"]).source.rows[0]["n"] == 1
    served.seen.clear()
    assert hub_data("me/two", name="dark", vector_columns=["n"]).source.rows[0]["n"] == 2
    assert served.seen == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    assert re.search("configurations, (red, dark|dark, red)", refusal(lambda: hub_data("me/two").source))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.unreachable.cache_clear()
    assert "set data.split to one of its splits" in refusal(lambda: hub_data("me/two", "test", name="dark").source)
    served.repositories["datasets/me/two"] = repository(5, {"v2": "2" * 40})
    for asked in ({"path": "me/two", "revision": "v2"}, {"path": "me/two@v2"}):
        second = hub_data(**asked, name="dark", vector_columns=["n"]).source
        assert second.rows[0]["n"] == 6
        assert second.name == "me/two@v2 (dark)"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    assert "there is no network" in refusal(lambda: hub_data("me/two").source)  # the cache has v2, but not main
    assert hub_data("me/two", name="dark", revision="v2", vector_columns=["n"]).source.rows[0]["n"] == 6
    assert "there is no network" in refusal(lambda: hub_data("me/two", revision="v3", name="dark").source)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.unreachable.cache_clear()
    assert "it has no revision v3" in refusal(lambda: hub_data("me/two", revision="v3", name="dark").source)
    assert "the hub has no public dataset of that id" in refusal(lambda: hub_data("me/none").source)
    served.repositories["datasets/me/two"].answer = (403, "GatedRepo", "not in the list")
    assert f"accept its licence at {served.url}/datasets/me/two" in refusal(lambda: hub_data("me/two@v4").source)


def test_text_encoders_have_the_same_causes(served, text_encoder_folder):
    repository = Repository(revisions={"v1": SHA}).take(text_encoder_folder)
    served.repositories["me/clip"] = repository
    tokenizer, encoder = load_encoder("me/clip@v1")
    assert (type(encoder).__name__, encoder.config.hidden_size) == ("CLIPTextModel", 16)
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
        said = refusal(lambda name=name: load_encoder(name))
        assert said.startswith(f"condition.text.encoder={name} could not be loaded as a text encoder: ")
        assert says in said
    assert not [request for request in served.seen if "discussions" in request]  # of a bot that converts it
