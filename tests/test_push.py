"""hub.push_to: what is uploaded to a hub when a run ends, and that a failure costs the run nothing."""

import pytest
from conftest import TINY_RUN
from huggingface_hub import ModelCard
from loopback import Repository

TOKEN = "hf_" + "a" * 34


@pytest.fixture
def on(model_folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return [f"model.pretrained={model_folder}", "data.n=12", "data.image_size=16", *TINY_RUN, "hub.push_to=me/moths"]


def test_the_pipeline_is_uploaded(run, served, on, tmp_path, capfd):
    assert run("train", *on, "hub.private=true", "hub.license=apache-2.0", "name=a") == 0
    uploaded, folder = served.repositories["me/moths"], tmp_path / "runs" / "a" / "pipeline"
    assert uploaded.private
    assert uploaded.files == Repository().take(folder).files
    assert {token for path, token in served.tokens if "commit" in path} == {f"Bearer {TOKEN}"}
    assert f"on the hub     {served.url}/me/moths" in capfd.readouterr().err
    card = ModelCard(uploaded.files["README.md"].decode())
    assert card.data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["chrysalis"],
        "license": "apache-2.0",
        "widget": [
            {
                "text": "samples of the base model and of this one, and training images",
                "output": {"url": "before_after.png"},
            }
        ],
    }
    assert run("sample", "model.pretrained=me/moths", "n=1", "steps=2") == 0  # from the hub that it was pushed to


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((403, None, "Forbidden"), "your token may not write there"),
        ((500, None, "Oops"), "Server error"),
    ],
)
def test_a_failed_upload_costs_the_run_nothing(run, served, on, tmp_path, capfd, answer, says):
    served.repositories["me/moths"] = Repository(answer=answer)
    assert run("train", *on, "name=a") == 0
    text = " ".join(capfd.readouterr().err.split())
    assert f"hub.push_to=me/moths failed: {says}" in text
    assert "hf upload me/moths runs/a/pipeline" in text
    assert (tmp_path / "runs" / "a" / "pipeline" / "README.md").is_file()


@pytest.mark.parametrize(
    ("key", "token", "says"),
    [
        ("me/moths", None, "needs a token of the hub: run `hf auth login`, or set HF_TOKEN"),
        ("moths", TOKEN, "is not the id of a repository: give OWNER/NAME"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_training(
    run, served, on, tmp_path, capfd, monkeypatch, key, token, says
):
    monkeypatch.delenv("HF_TOKEN") if token is None else None
    assert run("train", *on[:-1], f"hub.push_to={key}", "name=a") == 2
    assert f"hub.push_to={key} {says}" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "runs").exists()
