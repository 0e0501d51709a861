"""`make prove`: the three conditional experiments and the memorization one, trained as a user would and judged."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from conditions import accuracy
from judges import Judges

pytestmark = pytest.mark.proof

MINUTES, IMAGES_PER_SECOND = 6, 90  # on a machine that trains as many; on a slower one in proportion
RECORDS = ("results", "history")
WANTED = {"label": ("label: species", 0.95), "mask": ("mask: IoU", 0.9), "text": ("text: colour", 0.85)}
SCALE = {"label": 2, "mask": 1, "text": 2}


@pytest.fixture(scope="module")
def judges() -> Judges:
    """Judges trained here, on synthetic images that no model trains on."""
    torch.set_num_threads(os.cpu_count())
    return Judges.trained(None)


@pytest.mark.parametrize("what", WANTED)
def test_a_condition_is_learned_in_minutes_and_followed(what, judges, tmp_path, record_property):
    command = [sys.executable, str(REPOSITORY / "train.py"), f"experiment={what}", "name=proof"]
    subprocess.run(command, cwd=tmp_path, check=True)
    results = json.loads((tmp_path / "runs" / "proof" / "results.json").read_text())
    row, wanted = WANTED[what]
    figure = accuracy(judges, what, str(tmp_path / "runs" / "proof"), SCALE[what])[row]
    gap = results["val_loss_condition_shuffled"] - results["val_loss"]
    summary = f"{figure:.3f} at scale {SCALE[what]}, gap of the validation losses {gap:.5f}"
    record_property("figure", f"experiment={what}: {summary}; {results['seconds']:.0f} s")
    error = (figure * (1 - figure) / 80) ** 0.5  # of a fraction of 80 images; other CPUs train other weights
    assert figure + 1.64 * error >= wanted, "significantly less than wanted, at 95 %"
    assert gap > 0
    assert results["val_loss"] < results["val_loss_condition_null"]
    assert results["seconds"] <= 60 * MINUTES * max(1, IMAGES_PER_SECOND / results["images_per_second"])


@pytest.mark.parametrize("images", ["few", "many"])
def test_memorization_is_found_where_there_is_any(images, tmp_path, record_property):
    """Twenty images seen 1,200 times each are memorized; nine hundred, in as many steps, are not.

    The last weights are evaluated: the exported ones are those of the best step, long before.
    """
    many = ["data.n=1000", "data.val_fraction=0.1"] if images == "many" else []
    steps = "trainer.max_steps=3000"  # half of the experiment's, by which near-duplicates have appeared
    command = [sys.executable, str(REPOSITORY / "train.py"), "experiment=memorization", "name=proof", steps, *many]
    subprocess.run(command, cwd=tmp_path, check=True)
    results, history = (json.loads((tmp_path / "runs" / "proof" / f"{n}.json").read_text()) for n in RECORDS)
    found = history["evaluation"][-1]
    summary = f"{found['near_duplicate_fraction']:.0%} near-duplicates, {results['verdict']}"
    record_property("figure", f"experiment=memorization, {images} images: {summary}; {results['seconds']:.0f} s")
    assert (found["near_duplicate_p_value"] < 0.01) is (images == "few")
    assert ("near-duplicates of training images appear" in results["verdict"]) is (images == "few")
