"""Evaluation of runs: the metrics that other libraries give for the same images, when, and at no cost to training."""

import json

import numpy as np
import pytest
import torch
from conftest import EVALUATED_RUN, results
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch_fidelity.metric_kid import kid_features_to_metric

from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.evaluation import distances, features
from chrysalis.training.callbacks.sample_evaluation import SampleEvaluation, Schedule


def test_metrics_of_a_run_are_those_of_the_images_it_would_generate(run, tmp_path, tiny_features, model_folder, capfd):
    """sample.py generates the same images from the export; torch-fidelity measures their KD."""
    assert run("train", *EVALUATED_RUN, *tiny_features, "export.report=true") == 0
    log = capfd.readouterr().err
    images = open_set(DrawnSource("butterflies", 150), (3, 16, 16), "crop")
    validation_rows = images.split(0.1)[1]
    assert f"step 4: 24 samples vs {len(validation_rows)} validation images: KD" in log
    assert "The fraction of near-duplicates needs at least 20 validation images" in log
    folder = tmp_path / "runs" / "a"
    r = results(folder)
    assert [row["step"] for row in json.loads((folder / "history.json").read_text())["evaluation"]] == [0, 2, 4]
    assert r["evaluation"]["step"] == r["best_step"] == 4
    sampling = ["model.pretrained=runs/a", "n=24", "seed=100000", "scheduler=dpmpp_2m", "steps=2", "batch_size=24"]
    assert run("sample", *sampling, "out=samples") == 0
    samples = np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / "samples").glob("seed_*.png"))])
    extractor = features.DenoiserEncoder(str(model_folder), size=16)
    sample_features = features.extract(extractor, torch.from_numpy(samples).permute(0, 3, 1, 2))
    real = features.extract_rows(extractor, images, validation_rows)
    n = min(len(validation_rows), 24)
    theirs = kid_features_to_metric(
        sample_features[:n].double(),
        real[:n].double(),
        kid_subsets=1,
        kid_subset_size=n,
        kid_kernel="poly",
        verbose=False,
    )
    ours = distances.kernel_distance(real[:n], sample_features[:n]).value
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert distances.kernel_distance(real, sample_features).value == pytest.approx(r["evaluation"]["kd"], rel=1e-3)
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    assert [e.step for e in events.Scalars("samples_evaluation/kd")] == [0, 2, 4]
    assert [e.step for e in events.Images("samples_nearest")] == [0, 2, 4]
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_resumed_run_evaluates_what_is_due(run, trained, tmp_path, tiny_features):
    trained(*EVALUATED_RUN, *tiny_features)
    short = ["callbacks.evaluate.every_n_train_steps=auto", "callbacks.evaluate.budget=1", "trainer.max_steps=3"]
    assert (
        run("train", *EVALUATED_RUN, *tiny_features, "name=b", *short) == 0
    )  # once, at its last step, and not of the base model
    assert run("train", "resume=runs/b", "callbacks.evaluate.every_n_train_steps=2", "trainer.max_steps=4") == 0
    one, other = (json.loads((tmp_path / "runs" / n / "history.json").read_text())["evaluation"] for n in "ab")
    assert [row["step"] for row in other] == [0, 3, 4]
    assert (one[0], one[-1]) == (other[0], other[-1])


def test_a_resumed_run_with_other_features_forgets_the_earlier_ones(run, tmp_path, tiny_features, capfd):
    monitor = ["callbacks.best.monitor=kd", "trainer.max_steps=4", "name=a"]
    assert run("train", *EVALUATED_RUN, *tiny_features, *monitor) == 0
    assert run("train", "resume=runs/a", "features.size=32", "trainer.max_steps=6") == 0
    assert "The features have changed" in capfd.readouterr().err
    history = json.loads((tmp_path / "runs" / "a" / "history.json").read_text())["evaluation"]
    assert len({row["features_digest"] for row in history}) == 1
    best = min((row for row in history if row["step"]), key=lambda row: row["kd"])
    assert results(tmp_path / "runs" / "a")["best_step"] == best["step"]


OFF = [*EVALUATED_RUN, "callbacks.evaluate.n=0", "features.pretrained=nowhere", "name=b"]


def test_evaluation_costs_nothing_when_it_is_off(trained):
    """Not even its network is tiny_features for."""
    folder = trained(*OFF)
    assert results(folder)["evaluation"] is None
    assert not (folder / "nearest").exists()


def test_one_training_image_is_too_few_to_evaluate(run, tmp_path, tiny_features, capfd):
    assert run("train", *EVALUATED_RUN, *tiny_features, "data.n=2", "data.batch_size=1") == 0
    assert "Evaluation skipped: memorization needs at least two distinct training images" in capfd.readouterr().err
    assert results(tmp_path / "runs" / "a")["evaluation"] is None


def test_evaluation_changes_no_bit_of_the_run(trained, tmp_path, tiny_features):
    trained(*EVALUATED_RUN, *tiny_features)
    trained(*OFF)
    one, other = (torch.load(tmp_path / "runs" / n / "checkpoints" / "last.ckpt", weights_only=True) for n in "ab")
    assert all(torch.equal(w, other["state_dict"][name]) for name, w in one["state_dict"].items())


def test_the_best_step_can_be_that_of_another_metric(run, tmp_path, tiny_features):
    """The base model is never the best step, however good it is."""
    settings = ["callbacks.best.monitor=kd", "callbacks.evaluate.every_n_train_steps=1", "optimizer.lr=0.3"]
    assert (
        run("train", *EVALUATED_RUN, tiny_features[0], *settings, "lr_schedule=constant", "callbacks.ema.decay=0") == 0
    )
    history = json.loads((tmp_path / "runs" / "a" / "history.json").read_text())["evaluation"]
    best = min(history[1:], key=lambda row: row["kd"])
    assert results(tmp_path / "runs" / "a")["best_step"] == best["step"]
    assert history[0]["kd"] <= best["kd"]
    assert best["step"] < 4


def test_the_exported_weights_are_the_evaluated_ones(run, tmp_path, tiny_features):
    """Also where nothing was sampled at the best step: sample.py finds the same metrics."""
    settings = [
        "callbacks.evaluate.every_n_train_steps=9",
        "callbacks.validation.every_n_train_steps=1",
        "callbacks.ema.decay=0",
    ]
    settings += ["optimizer.lr=1", "lr_schedule=constant", "trainer.max_steps=6"]
    assert run("train", *EVALUATED_RUN, *tiny_features, *settings, "export.report=true") == 0
    r = results(tmp_path / "runs" / "a")
    steps = [row["step"] for row in json.loads((tmp_path / "runs" / "a" / "history.json").read_text())["evaluation"]]
    assert 0 < r["best_step"] < 6, "otherwise this test shows nothing"
    assert steps == [0, r["best_step"], 6]
    assert r["evaluation"]["step"] == r["best_step"]
    sampling = [
        "n=24",
        "seed=100000",
        "scheduler=dpmpp_2m",
        "steps=2",
        "batch_size=24",
        "data=butterflies",
        "data.n=150",
    ]
    assert run("sample", "task=evaluate", "model.pretrained=runs/a", *sampling, *tiny_features, "out=samples") == 0
    again = json.loads((tmp_path / "samples" / "evaluation.json").read_text())
    assert again["kd"] == pytest.approx(r["evaluation"]["kd"], rel=1e-3)
    assert f"24 samples at step {r['best_step']}" in (tmp_path / "runs" / "a" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["features.pretrained=nowhere"], "features.pretrained=nowhere"),
        (["callbacks.evaluate.features=null"], "callbacks.evaluate.features=null"),
        (["callbacks.best.monitor=kd", "callbacks.evaluate.n=0"], "callbacks.best.monitor=kd needs two measurements"),
        (["callbacks.best.monitor=kd", "callbacks.evaluate.every_n_train_steps=4"], "needs two measurements"),
        (["callbacks.best.monitor=coverage"], "callbacks.best.monitor=coverage needs 50 images"),
        (["callbacks.best.monitor=fd"], "callbacks.best.monitor=fd needs 33 images"),
        (["callbacks=early_stopping", "data.n=4", "data.batch_size=1"], "needs at least two validation images"),
        (["~callbacks.evaluate"], "The callback SampleEvaluation is missing"),
        (["features.size=100000"], "features.size=100000"),
    ],
)
def test_settings_that_cannot_be_evaluated_are_refused_before_the_first_step(
    run, tmp_path, tiny_features, words, message, capfd
):
    assert run("train", *EVALUATED_RUN, *tiny_features, *words) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs" / "a").exists()


def test_a_resumed_run_with_other_validation_images_measures_the_new_ones(run, tmp_path, image_folder, capfd):
    """Losses of different images are no pairs."""
    words = [
        *EVALUATED_RUN,
        "callbacks.evaluate.n=0",
        "data=folder",
        f"data.path={image_folder}",
        "data.val_fraction=0.3",
    ]
    words = [word for word in words if not word.startswith("data.n=")]
    assert (
        run("train", *words, "callbacks=early_stopping", "callbacks.validation.n_images=9", "trainer.max_steps=2") == 0
    )
    for file in sorted(image_folder.rglob("*.png"))[::2]:
        file.unlink()
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 0
    log = capfd.readouterr().err
    assert "The validation images have changed" in log
    assert log.index("has changed since this run began") < log.index("The validation images have changed")
    history = json.loads((tmp_path / "runs" / "a" / "history.json").read_text())
    assert [row["step"] for row in history["validation"]] == [0, 2, 4]
    assert len(results(tmp_path / "runs" / "a")["validation"]["loss_by_image"]) < 9
    assert results(tmp_path / "runs" / "a")["best_step"] == 4


def test_one_validation_image_has_no_standard_error(run, tmp_path):
    """JSON has no infinity."""
    assert run("train", *EVALUATED_RUN, "callbacks.evaluate.n=0", "callbacks.validation.n_images=1") == 0
    for name in ("results", "history"):
        json.loads((tmp_path / "runs" / "a" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert results(tmp_path / "runs" / "a")["val_loss_minus_base_error"] is None


@pytest.mark.parametrize(
    ("total", "n", "every", "due"),
    [
        (150, 256, "auto", [150]),  # too short for 256 images: fewer, once
        (3000, 256, "auto", [1500, 3000]),
        (5334, 256, "auto", [0, 1778, 3556, 5334]),
        (100, 32, 40, [0, 40, 80, 100]),
        (10, 256, "auto", []),
    ],
)
def test_when_it_evaluates(total, n, every, due):
    """auto: 4 % of the forward passes of training with 16 images a step, of 10 passes a sample."""
    callback = SampleEvaluation("run", lambda: None, n=n, every_n_train_steps=every)
    when = callback.make_schedule(total, 16)
    steps = [step for step in range(total + 1) if when.is_due(step)]
    assert steps == due
    assert when.count(total) == len(due)
    assert every != "auto" or when.n * len(steps) * callback.steps <= 0.04 * 3 * 16 * total


def test_an_endless_run_is_evaluated_at_regular_steps():
    when = SampleEvaluation("run", lambda: None).make_schedule(None, 16)
    due = [step for step in range(10 * when.every) if when.is_due(step)]
    assert due == list(range(0, 10 * when.every, when.every))
    assert Schedule(0).is_due(0) is False
