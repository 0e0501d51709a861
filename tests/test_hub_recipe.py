"""The recipe of the tutorial from a hub, in processes of their own: HF_ENDPOINT names a mirror, HF_HOME is empty."""

import io
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from conftest import REPOSITORY, TINY_RUN, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from loopback import Repository, serving
from PIL import Image
from tiny_models import CELEBAHQ


@pytest.fixture
def mirror(tmp_path):
    """A hub with the recipe's model, narrow and in its flat layout, and a dataset with the columns of the recipe's."""
    flat = tmp_path / "flat"
    tiny_unet(**CELEBAHQ).save_pretrained(flat)
    DDPMScheduler(variance_type="fixed_small").save_pretrained(flat)
    rng, encoded = np.random.default_rng(0), []
    for _ in range(12):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(data, "PNG")
        encoded.append({"bytes": data.getvalue(), "path": None})
    rows = datasets.Dataset.from_dict({"image": encoded, "name": [f"butterfly {i}" for i in range(12)]})
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "train.parquet")
    with serving() as server:
        server.repositories["google/ddpm-celebahq-256"] = Repository().take(flat)
        table = {"data/train-00000-of-00001.parquet": (tmp_path / "train.parquet").read_bytes()}
        server.repositories["datasets/huggan/smithsonian_butterflies_subset"] = Repository(table)
        yield server


def test_the_recipe_trains_from_a_mirror_and_again_from_the_cache(mirror, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept = {name: value for name, value in kept.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": mirror.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY / "src")}
    small = [*TINY_RUN, "data.image_size=32", "trainer.max_epochs=1", "trainer.max_steps=2"]

    def program(name: str, *overrides: str) -> str:
        words = [sys.executable, REPOSITORY / f"{name}.py", *overrides]
        how = {"cwd": tmp_path, "env": {**kept, **own}, "capture_output": True, "text": True}
        done = subprocess.run(words, check=False, timeout=240, **how)
        assert done.returncode == 0, done.stderr
        return done.stderr

    program("train", "experiment=smithsonian", *small, "name=first")
    assert any(request.startswith("GET google/ddpm-celebahq-256/resolve/") for request in mirror.seen)
    assert any(request.startswith("GET datasets/huggan/smithsonian") for request in mirror.seen)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "runs" / "first" / "pipeline")
    assert pipeline.unet.config.block_out_channels == list(CELEBAHQ["block_out_channels"])
    program("sample", "model.pretrained=runs/first", "n=1", "steps=2")
    assert "base_model: google/ddpm-celebahq-256" in (tmp_path / "runs/first/pipeline/README.md").read_text()
    mirror.shutdown()
    mirror.server_close()
    program("train", "experiment=smithsonian", *small, "name=second")
