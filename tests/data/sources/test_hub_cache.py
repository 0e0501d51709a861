"""What lies in the local cache of the hub is loaded without a single request: every connection raises here."""

import io
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from conftest import tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

NO_NETWORK = """
import socket
def refuse(*arguments, **settings):
    raise AssertionError("a request was sent")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def cached_model(hub: Path) -> None:
    """me/model as huggingface_hub lays it down: a snapshot, named by refs/main."""
    sha = "0" * 40
    DDPMPipeline(unet=tiny_unet(), scheduler=DDPMScheduler()).save_pretrained(hub / "models--me--model/snapshots" / sha)
    (hub / "models--me--model/refs").mkdir()
    (hub / "models--me--model/refs/main").write_text(sha)


def cached_dataset(folder: Path) -> None:
    """me/pics as datasets lays it down: an arrow file and its description below config, version and hash."""
    rows = []
    for i in range(6):
        data = io.BytesIO()
        Image.new("RGB", (20, 20), (i, 0, 0)).save(data, "PNG")
        rows.append({"bytes": data.getvalue(), "path": None})
    parquet = folder / "pics.parquet"
    datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image()).to_parquet(parquet)
    builder = datasets.load_dataset_builder("parquet", data_files=str(parquet), cache_dir=str(folder / "made"))
    builder.download_and_prepare()
    place = folder / "datasets" / "me___pics" / "default" / "0.0.0" / ("a" * 40)
    place.parent.mkdir(parents=True)
    os.rename(builder.cache_dir, place)
    for file in place.glob("parquet-*"):
        file.rename(file.with_name(file.name.replace("parquet-", "pics-")))


def without_network(home: Path, program: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE")}
    environment |= {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NO_NETWORK + program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.proof  # in a process of its own, without sockets
def test_cached_models_and_datasets_ask_the_network_nothing(tmp_path):
    cached_model(tmp_path / "hub")
    cached_dataset(tmp_path)
    program = """
from chrysalis.data.sources.hub import hub_data
from chrysalis.models import folder
print(len(hub_data("me/pics").source), folder.load("me/model").prediction)
"""
    assert without_network(tmp_path, program).split() == ["6", "epsilon"]
