"""Evaluation while it learns and of any folder: the same figures as other libraries give for the same images."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, results, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch_fidelity.metric_kid import kid_features_to_metric
from torchvision.transforms.functional import gaussian_blur

from benchmarks import early_stopping
from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.evaluation import distances, features, plots, report, validation_record
from chrysalis.evaluation.task import distinctly_named
from chrysalis.evaluation.validation_loss import paired
from chrysalis.evaluation.verdict import change, verdict
from chrysalis.system.errors import UserError
from chrysalis.training.callbacks.best_step import Best
from chrysalis.training.callbacks.early_stopping import EarlyStopping
from chrysalis.training.callbacks.evaluate import Evaluate
from chrysalis.training.callbacks.evaluation_schedule import EvaluationSchedule

RUN = [*TINY_MODEL, *TINY_RUN, "data.n=150", "name=a", "callbacks.evaluate.n=24", "callbacks.evaluate.steps=2"]
RUN += ["callbacks.evaluate.every_n_train_steps=2", "trainer.precision=32-true"]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A tiny network to look at images with."""
    folder = tmp_path_factory.mktemp("network")
    DDPMPipeline(unet=tiny_unet(), scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def looked(network) -> list[str]:
    return [f"features.pretrained={network}", "features.size=16"]


def test_figures_of_a_run_are_those_of_the_pictures_it_would_draw(run, tmp_path, looked, network, capfd):
    """sample.py draws the same images from the export; torch-fidelity has KD of them and the validation images."""
    assert run("train", *RUN, *looked, "export.report=true") == 0
    told = capfd.readouterr().err
    images = open_set(DrawnSource("butterflies", 150), (16, 16), "crop")
    held = images.split(0.1)[1]
    assert f"step 4: 24 samples against {len(held)} validation images: KD" in told
    assert "share of copies is withheld" in told
    folder = tmp_path / "runs" / "a"
    r = results(folder)
    assert [row["step"] for row in json.loads((folder / "history.json").read_text())["evaluation"]] == [0, 2, 4]
    assert r["evaluation"]["step"] == r["best_step"] == 4
    draw = ["model.pretrained=runs/a", "n=24", "seed=100000", "scheduler=dpmpp_2m", "steps=2", "batch_size=24"]
    assert run("sample", *draw, "out=drawn") == 0
    drawn = np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / "drawn").glob("seed_*.png"))])
    eyes = features.Denoiser(str(network), size=16)
    own = features.features(eyes, torch.from_numpy(drawn).permute(0, 3, 1, 2))
    real = features.of_set(eyes, images, held)
    n = min(len(held), 24)
    theirs = kid_features_to_metric(
        own[:n].double(), real[:n].double(), kid_subsets=1, kid_subset_size=n, kid_kernel="poly", verbose=False
    )
    ours = distances.kernel(real[:n], own[:n]).value
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert distances.kernel(real, own).value == pytest.approx(r["evaluation"]["kd"], rel=1e-3)
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    assert [e.step for e in events.Scalars("samples_evaluation/kd")] == [0, 2, 4]
    assert [e.step for e in events.Images("samples_nearest")] == [0, 2, 4]
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_resumed_run_evaluates_what_is_due(run, trained, tmp_path, looked):
    trained(*RUN, *looked)
    short = ["callbacks.evaluate.every_n_train_steps=auto", "callbacks.evaluate.budget=1", "trainer.max_steps=3"]
    assert run("train", *RUN, *looked, "name=b", *short) == 0  # once, at its last step, and not of the base model
    assert run("train", "resume=runs/b", "callbacks.evaluate.every_n_train_steps=2", "trainer.max_steps=4") == 0
    one, other = (json.loads((tmp_path / "runs" / n / "history.json").read_text())["evaluation"] for n in "ab")
    assert [row["step"] for row in other] == [0, 3, 4]
    assert (one[0], one[-1]) == (other[0], other[-1])


OFF = [*RUN, "callbacks.evaluate.n=0", "features.pretrained=nowhere", "name=b"]


def test_it_costs_nothing_when_it_is_off(trained):
    """Not even its network is looked for."""
    folder = trained(*OFF)
    assert results(folder)["evaluation"] is None
    assert not (folder / "nearest").exists()


def test_one_picture_to_learn_from_is_too_few_to_evaluate(run, tmp_path, looked, capfd):
    assert run("train", *RUN, *looked, "data.n=2", "data.batch_size=1") == 0
    assert "Evaluation skipped: memorization needs" in capfd.readouterr().err
    assert results(tmp_path / "runs" / "a")["evaluation"] is None


def test_it_changes_no_bit_of_the_run(trained, tmp_path, looked):
    trained(*RUN, *looked)
    trained(*OFF)
    one, other = (torch.load(tmp_path / "runs" / n / "checkpoints" / "last.ckpt", weights_only=True) for n in "ab")
    assert all(torch.equal(w, other["state_dict"][name]) for name, w in one["state_dict"].items())


def test_the_best_step_can_be_that_of_another_figure(run, tmp_path, looked):
    """The base model is none of them, however good it is."""
    asked = ["callbacks.best.monitor=kd", "callbacks.evaluate.every_n_train_steps=1", "optimizer.lr=0.3"]
    assert run("train", *RUN, looked[0], *asked, "lr_schedule=constant", "callbacks.ema.decay=0") == 0
    history = json.loads((tmp_path / "runs" / "a" / "history.json").read_text())["evaluation"]
    best = min(history[1:], key=lambda row: row["kd"])
    assert results(tmp_path / "runs" / "a")["best_step"] == best["step"]
    assert history[0]["kd"] <= best["kd"]
    assert best["step"] < 4


def test_what_is_exported_is_what_was_evaluated(run, tmp_path, looked):
    """Also where the best step is one at which nothing was drawn: sample.py finds the same figures."""
    asked = [
        "callbacks.evaluate.every_n_train_steps=9",
        "callbacks.validation.every_n_train_steps=1",
        "callbacks.ema.decay=0",
    ]
    asked += ["optimizer.lr=1", "lr_schedule=constant", "trainer.max_steps=6"]
    assert run("train", *RUN, *looked, *asked, "export.report=true") == 0
    r = results(tmp_path / "runs" / "a")
    steps = [row["step"] for row in json.loads((tmp_path / "runs" / "a" / "history.json").read_text())["evaluation"]]
    assert 0 < r["best_step"] < 6, "or this shows nothing"
    assert steps == [0, r["best_step"], 6]
    assert r["evaluation"]["step"] == r["best_step"]
    draw = ["n=24", "seed=100000", "scheduler=dpmpp_2m", "steps=2", "batch_size=24", "data=butterflies", "data.n=150"]
    assert run("sample", "task=evaluate", "model.pretrained=runs/a", *draw, *looked, "out=drawn") == 0
    again = json.loads((tmp_path / "drawn" / "evaluation.json").read_text())
    assert again["kd"] == pytest.approx(r["evaluation"]["kd"], rel=1e-3)
    assert f"24 samples at step {r['best_step']}" in (tmp_path / "runs" / "a" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["features.pretrained=nowhere"], "features.pretrained=nowhere"),
        (["callbacks.evaluate.features=null"], "callbacks.evaluate.features=null"),
        (["callbacks.best.monitor=kd", "callbacks.evaluate.n=0"], "callbacks.best.monitor=kd needs two measurements"),
        (["callbacks.best.monitor=kd", "callbacks.evaluate.every_n_train_steps=4"], "needs two measurements"),
        (["callbacks.best.monitor=coverage"], "callbacks.best.monitor=coverage needs 50 images"),
        (["callbacks.best.monitor=fd"], "callbacks.best.monitor=fd needs 33 images"),
        (["callbacks=early_stopping", "data.n=4", "data.batch_size=1"], "needs at least two validation images"),
        (["~callbacks.evaluate"], "The callback Evaluate is missing"),
        (["features.size=100000"], "features.size=100000"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_first_step(run, tmp_path, looked, words, told, capfd):
    assert run("train", *RUN, *looked, *words) == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "runs" / "a").exists()


@pytest.mark.proof
def test_a_rule_that_can_never_act_is_told(run, capfd, looked):
    assert run("train", *RUN, *looked, "callbacks=early_stopping", "preflight=only") == 0
    assert "callbacks=early_stopping cannot stop this run" in capfd.readouterr().err


def test_any_folder_of_pictures_can_be_evaluated_against(run, tmp_path, looked, model_folder, image_folder, capfd):
    model, data = f"model.pretrained={model_folder}", ["data=folder", f"data.path={image_folder}"]
    words = ["task=evaluate", model, *data, *looked, "n=20", "steps=2", "out=drawn"]
    assert run("sample", *words) == 0
    told = capfd.readouterr().err
    assert "20 samples against 24 real ones: KD" in told, "of few validation images, all are looked at"
    found = json.loads((tmp_path / "drawn" / "evaluation.json").read_text())
    assert found["n_samples"] == 20
    assert any("FD is withheld" in why for why in found["withheld"])
    page = (tmp_path / "drawn" / "report.html").read_text()
    assert 0 < page.index("<img") < page.index("<table")
    assert {"grid.png", "nearest.png", "report.html", "settings.json"} <= {
        p.name for p in (tmp_path / "drawn").iterdir()
    }
    assert run("sample", *words) == 0  # complete: drawn once, evaluated again
    assert json.loads((tmp_path / "drawn" / "evaluation.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task=evaluate"], "task=evaluate needs images to compare with"),
        (["task=evaluate", "task.compare=[here]"], "here holds neither a finished run nor"),
        (["task=evaluate", "task.compare=here"], "here holds neither a finished run nor"),
        (["task=evaluate", "task.compare=[]"], "task.compare needs two folders or more"),
        (["task=evaluate", "data=butterflies", "task.features=null"], "task.features=null"),
        (["task=evaluate", "data=butterflies", "data.n=2"], "too few usable images"),
        (["task=evaluate", "data=butterflies", "features=inception"], "features.weights"),
        (["task=evaluate", "data=butterflies", "features.at=3"], "features.at=3"),
        (["task=evaluate", "data=butterflies", "features=dinov2"], "no network"),
    ],
)
def test_mistakes(run, capfd, model_folder, words, told, tmp_path):
    assert run("sample", *words, f"model.pretrained={model_folder}", "out=drawn", "n=2") == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "drawn").exists()


def test_a_set_smaller_than_a_batch_of_training_can_be_evaluated_against(run, tmp_path, looked, model_folder):
    few = ["data=butterflies", "data.n=5", *looked, f"model.pretrained={model_folder}"]
    assert run("sample", "task=evaluate", *few, "n=2", "steps=2", "out=drawn") == 0
    assert json.loads((tmp_path / "drawn" / "evaluation.json").read_text())["n_real"] == 5


def test_runs_side_by_side_in_one_table_and_page(run, trained, tmp_path, looked, capfd):
    trained(*RUN, *looked)
    assert run("train", *RUN, *looked, "name=b", "seed=98") == 0
    assert run("sample", "task=evaluate", "task.compare=[runs/a,runs/b]", "out=both") == 0
    told = capfd.readouterr().err
    for name in ("a", "b"):
        assert f"{results(tmp_path / 'runs' / name)['val_loss']:.5f}" in told
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "all that it shows is in it"
    losses = [results(tmp_path / "runs" / name)["validation"]["images"] for name in ("a", "b")]
    both = sorted(losses[0].keys() & losses[1].keys())
    assert len(both) >= 2
    change = np.array([losses[1][key] - losses[0][key] for key in both])
    assert f"{change.mean():+.5f} ± {change.std(ddof=1) / math.sqrt(len(both)):.5f}" in page
    assert page.count("<svg") == 4
    assert page.rindex("<img") < page.index("<svg"), "images first"
    assert "; its samples still differ from the data (KD " in page, "as it is written"
    assert page.count("data:image/png") >= 6
    assert "<th>" in page
    assert "runs/a, runs/b" not in page, "what all of them share says nothing"


def test_runs_of_one_name_in_two_places_are_two():
    """As folders outside the working folder, of which only the last name is shown, may have."""
    subjects = [report.Subject(name, {}, {}, {}) for name in (".../a", "b", ".../a", ".../a")]
    assert [s.name for s in distinctly_named(subjects)] == [".../a", "b", ".../a (2)", ".../a (3)"]


def test_runs_from_different_models_are_not_compared_by_what_they_gained(tmp_path):
    """A model that knows nothing gains the most."""
    histories = {}
    for name, losses in {"near": (0.15, 0.10), "scratch": (0.57, 0.19)}.items():
        rows = [{"step": s, "ema": v, "raw": v, "ema_by_timestep": [v, v]} for s, v in zip((0, 9), losses, strict=True)]
        for row in rows:
            change = row["ema"] - losses[0]
            gained = {"mean": change, "error": 0.01, "by_bin": [change] * 2, "error_by_bin": [0.01] * 2}
            row |= {"ema_minus_base": gained, "raw_minus_base": gained}
        histories[name] = {"validation": rows, "timesteps": [250, 750], "evaluation": [], "training": []}
    best, colours = dict.fromkeys(histories, 9), dict(zip(histories, plots.COLOURS, strict=False))
    apart = plots.report_figures(histories, best, colours)
    alone = plots.report_figures({"near": histories["near"]}, best, colours)
    for ours, theirs in zip(apart[:2], alone[:2], strict=True):
        assert "difference to the base model" in theirs[2]
        assert "difference to the base model" not in ours[2]
    assert "began with different models" in apart[0][1]
    assert [title for title, *_ in alone] == ["Validation loss", "Validation loss by timestep"]


def test_no_chart_has_a_single_point(tmp_path):
    gained = {"mean": -0.1, "error": 0.01, "by_bin": [-0.1] * 2, "error_by_bin": [0.01] * 2}
    row = {"ema": 0.1, "raw": 0.1, "ema_by_timestep": [0.1] * 2, "ema_minus_base": gained, "raw_minus_base": gained}
    kd = {"kd": 0.1, "kd_low": 0.2, "kd_high": 0.3}  # a bootstrapped interval need not hold its estimate

    def titles(n: int) -> list[str]:
        evaluations, training = [{"step": k, **kd} for k in range(n)], [[k, 0.1, 0.1] for k in range(n)]
        history = {"validation": [{"step": 0, **row}, {"step": 9, **row}], "timesteps": [250, 750]}
        history |= {"evaluation": evaluations, "training": training}
        return [title for title, *_ in plots.report_figures({"a": history}, {"a": 9}, {"a": "#000000"})]

    assert titles(1) == ["Validation loss", "Validation loss by timestep"]
    assert titles(2) == ["Validation loss", "Validation loss by timestep", "Samples", "Training loss"]


def test_a_runs_model_evaluated_again_has_the_runs_held_out_loss(run, tmp_path, looked, capfd):
    assert run("train", *RUN, *looked, "callbacks.validation.n_images=6", "callbacks.validation.timesteps=8") == 0
    data = ["data=butterflies", "data.n=150", "data.seed=0"]
    draw = ["model.pretrained=runs/a", *data, *looked, "n=20", "steps=2", "out=drawn"]
    assert run("sample", "task=evaluate", *draw) == 0
    ran = results(tmp_path / "runs" / "a")["validation"]
    again = json.loads((tmp_path / "drawn" / "evaluation.json").read_text())["validation"]
    assert len(ran["images"]) == 6
    assert len(again["images"]) > 6, "all that are held out"
    for key, loss in ran["images"].items():
        assert again["images"][key] == pytest.approx(loss, rel=1e-5)
    assert run("sample", "task=evaluate", "task.compare=[runs/a,drawn]", "out=both") == 0
    assert "0.00000 ± 0.00000" in capfd.readouterr().err
    for key, value, why in (("prediction", "sample", "targets"), ("size", [32, 32], "sizes"), ("images", {}, "held")):
        assert re.match(f"not comparable: other .*{why}", validation_record.difference(ran, {**again, key: value}))


def test_a_model_whose_run_validation_others_is_warned_of(run, tmp_path, looked, capfd):
    assert run("train", *RUN, "callbacks.evaluate.n=0", "data.val_fraction=0.4") == 0
    words = ["task=evaluate", "model.pretrained=runs/a", "data=butterflies", "data.n=60", *looked, "n=2", "steps=2"]
    capfd.readouterr()
    assert run("sample", *words, "out=drawn") == 0
    assert "runs/a held out data.val_fraction=0.4 of its images" in capfd.readouterr().err
    assert run("sample", *words, "data.val_fraction=0.4", "out=drawn") == 0, "the same images, looked at anew"
    assert "held out data.val_fraction" not in capfd.readouterr().err
    assert run("sample", *words, "data.val_fraction=0.4", "task.panel=1", "features.at=0.2", "out=drawn") == 0


def test_damaged_and_odd_runs_are_compared_or_refused_in_a_sentence(run, tmp_path, looked, capfd):
    assert run("train", *RUN, "callbacks.evaluate.n=0", "name=_a", "trainer.max_steps=2") == 0
    shutil.copytree(tmp_path / "runs" / "_a", tmp_path / "runs" / "b_$5_and_$6")
    both = ["task=evaluate", "task.compare=[runs/_a,runs/b_$5_and_$6]"]
    assert run("sample", *both, "out=both") == 0
    assert "both/comparison.html" in capfd.readouterr().err
    page = (tmp_path / "both" / "comparison.html").read_text()
    for name in ("_a", "b_$5_and_$6"):
        assert re.search(rf"<text [^>]*>\s*{re.escape(name)}</text>", page), "in the legend, as it is"
    file = tmp_path / "runs" / "_a" / "results.json"
    file.write_text(json.dumps({"command": "python train.py"}))
    assert run("sample", *both, "out=again") == 2
    assert "runs/_a/results.json is missing, damaged, or from another version" in capfd.readouterr().err


def test_a_run_whose_validation_images_have_changed_measures_those_of_now(run, tmp_path, image_folder, capfd):
    """Fewer than before, or others: losses of other images are no pairs."""
    words = [*RUN, "callbacks.evaluate.n=0", "data=folder", f"data.path={image_folder}", "data.val_fraction=0.3"]
    words = [word for word in words if not word.startswith("data.n=")]
    assert (
        run("train", *words, "callbacks=early_stopping", "callbacks.validation.n_images=9", "trainer.max_steps=2") == 0
    )
    for file in sorted(image_folder.rglob("*.png"))[::2]:
        file.unlink()
    assert run("train", "resume=runs/a", "trainer.max_steps=4") == 0
    told = capfd.readouterr().err
    assert "The validation images have changed" in told
    assert told.index("has changed since this run began") < told.index("The validation images have changed")
    history = json.loads((tmp_path / "runs" / "a" / "history.json").read_text())
    assert [row["step"] for row in history["validation"]] == [0, 2, 4]
    assert len(results(tmp_path / "runs" / "a")["validation"]["images"]) < 9
    assert results(tmp_path / "runs" / "a")["best_step"] == 4


def test_one_held_out_picture_has_no_error(run, tmp_path):
    """And JSON has no word for infinity."""
    assert run("train", *RUN, "callbacks.evaluate.n=0", "callbacks.validation.n_images=1") == 0
    for name in ("results", "history"):
        json.loads((tmp_path / "runs" / "a" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert results(tmp_path / "runs" / "a")["val_loss_minus_base_error"] is None


@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser")
def test_the_report_opens_in_a_browser(run, tmp_path, looked):
    assert run("train", *RUN, *looked, "export.report=true") == 0
    page, shot = tmp_path / "runs" / "a" / "report.html", tmp_path / "shot.png"
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,2400"]
    subprocess.run([*browser, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120)
    seen = np.asarray(Image.open(shot).convert("L"))
    assert seen.shape == (2400, 1000)
    assert (seen < 128).mean() > 0.002, "text and curves"


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
    callback = Evaluate("run", lambda: None, n=n, every_n_train_steps=every)
    when = callback.plan(total, 16)
    steps = [step for step in range(total + 1) if when.is_due(step)]
    assert steps == due
    assert when.count(total) == len(due)
    assert every != "auto" or when.n * len(steps) * callback.steps <= 0.04 * 3 * 16 * total


def test_an_endless_run_is_evaluated_ever_again():
    when = Evaluate("run", lambda: None).plan(None, 16)
    due = [step for step in range(10 * when.every) if when.is_due(step)]
    assert due == list(range(0, 10 * when.every, when.every))
    assert EvaluationSchedule(0).is_due(0) is False


def losses(mean: float, seed: int, n: int = 24) -> torch.Tensor:
    """[n, 4] with images that differ much and measurements that differ little."""
    images = torch.linspace(0, 1, n)[:, None]
    return mean + images + 0.01 * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def test_paired_differences_are_those_of_a_paired_test():
    from scipy.stats import ttest_rel

    a, b = losses(0.5, 0), losses(0.49, 1)
    ours = paired(a, b)
    theirs = ttest_rel(a.mean(1).numpy(), b.mean(1).numpy())
    assert ours.mean / ours.error == pytest.approx(theirs.statistic, rel=1e-4)
    for j in range(4):
        by_bin = ttest_rel(a[:, j].numpy(), b[:, j].numpy()).statistic
        assert ours.by_bin[j] / ours.error_by_bin[j] == pytest.approx(by_bin, rel=1e-4)


@pytest.mark.parametrize(
    ("means", "stops_at"),
    [
        ([1.0, 0.8, 0.6, 0.5, 0.45, 0.43], None),
        ([1.0, 0.8, 0.6, 0.62, 0.64, 0.66], 5),
        ([1.0, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6], 5),
        ([1.0, 0.8, 0.82, 0.82, 0.7, 0.72, 0.74, 0.76], 7),
    ],
)
def test_early_stopping_waits_for_a_sure_improvement(means, stops_at):
    callback, stopped = EarlyStopping(patience=3), None
    for i, mean in enumerate(means):
        callback.update(100 * i, losses(mean, i))
        if callback.waited >= 3 and stopped is None:
            stopped = i
    assert stopped == stops_at


def test_a_run_stops_early_and_says_so(run, tmp_path, capfd):
    early = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=10", "callbacks.early_stopping.patience=2"]
    early += ["callbacks.validation.every_n_train_steps=1"]
    assert run("train", *RUN, *early, "callbacks.evaluate.n=0", "trainer.max_steps=40",
               "lr_schedule=constant", "optimizer.lr=1e-9") == 0  # fmt: skip
    assert "early stopping. The validation loss has not improved since step 0" in capfd.readouterr().err
    assert results(tmp_path / "runs" / "a")["steps"] == 2


def test_recorded_runs_stop_where_they_would_have_stopped_live(run, tmp_path, capsys):
    rule = {"patience": 2, "min_delta": 10.0}
    steps = [
        "trainer.max_steps=12",
        "callbacks.validation.every_n_train_steps=1",
        "lr_schedule=constant",
        "optimizer.lr=0.3",
    ]
    never = "callbacks.early_stopping.patience=99"
    for name, words in {"live": [f"callbacks.early_stopping.{k}={v}" for k, v in rule.items()], "on": [never]}.items():
        told = [*RUN, "callbacks.evaluate.n=0", *steps, "callbacks=early_stopping", *words, f"name={name}"]
        assert run("train", *told) == 0
    live = results(tmp_path / "runs" / "live")["steps"]
    recorded = early_stopping.measured(tmp_path / "runs" / "on")
    assert max(recorded) == 12
    assert early_stopping.stopped(recorded, EarlyStopping(**rule)) == live < 12
    assert early_stopping.stopped(recorded, EarlyStopping(patience=99)) == 12


class History:
    def __init__(self, means: dict[int, float]):
        self.measured = {step: losses(mean, step) for step, mean in means.items()}

    def difference(self, step: int, to: int = 0):
        return paired(self.measured[step], self.measured[to])


FALLING = "best at step 200, the last one: the validation loss was still falling"
SAME = "no significant change from the base model on validation images"
FAR = "; its samples still differ from the data (KD 0.28, 95 % CI 0.21 to 0.35; 0 is no difference)"


@pytest.mark.parametrize(
    ("means", "best", "copied", "kd", "told"),
    [
        ([1, 0.8, 0.9], 100, 200, None, "best at step 100; after that the validation loss rises and near-duplicates of "
         "training images appear by step 200"),
        ([1, 0.8, 0.6], 200, None, None, FALLING),
        ([1, 0.8, 0.6], 200, None, (0.28, 0.21, 0.35), FALLING + FAR),
        ([1, 0.8, 0.6], 200, None, (0.01, -0.02, 0.04), FALLING),
        ([1, 0.8, 0.8], 100, None, None, "best at step 100; after that the validation loss stays about the same"),
        ([1, 1.0], 100, None, (0.28, 0.21, 0.35), SAME + FAR),
        ([1, 0.8, 0.6], 200, 100, None, f"{FALLING}; near-duplicates of training images appear already by step 100"),
        ([1, 0.8, 0.6], 100, None, None, "best at step 100; after that the validation loss falls"),
        ([1, 1.8], 100, None, None, "worse than the base model on validation images, also at the best step, 100"),
    ],
)  # fmt: skip
def test_the_verdict(means, best, copied, kd, told):
    means = {100 * i: mean for i, mean in enumerate(means)}
    rows = [{"step": step, "copies_chance": 0.001 if copied and step >= copied else 0.5} for step in means if step]
    if kd:
        next(row for row in rows if row["step"] == best).update(zip(("kd", "kd_low", "kd_high"), kd, strict=True))
    assert verdict(best, max(means), History(means), rows) == told


def test_a_change_is_called_one_where_it_is_significant():
    """Three images: Student's bound for them is 4.303 standard errors, which 0.04 is above and below."""
    base = torch.tensor([[0.2], [0.3], [0.1]])
    for spread, sign, expected in (
        (0.009, -1, "20 % lower than"),
        (0.009, 1, "20 % higher than"),
        (0.0095, -1, "no significant change from"),
        (0.0, -0.01, "0.2 % lower than"),
    ):
        step = 3**0.5 * spread * torch.tensor([[-1.0], [0.0], [1.0]])
        assert change(paired(base + sign * 0.04 + step, base), 0.2) == expected
    assert change(paired(base[:1] / 2, base[:1]), 0.2) == "no significant change from", "of one image"


def test_many_looks_at_a_run_are_no_alarm():
    """One look in a hundred finds so many by chance."""
    validation = History({100 * i: 1 - 0.01 * i for i in range(31)})
    looks = [{"step": 100 * i, "copies_chance": 0.008 if i == 17 else 0.5} for i in range(31)]
    assert "duplicates" not in verdict(3000, 3000, validation, looks)
    assert "duplicates" in verdict(3000, 3000, validation, [{**row, "copies_chance": 1e-4} for row in looks])


def test_a_difference_is_sure_by_students_test():
    from scipy.stats import ttest_rel

    for n in (2, 3, 8, 40):
        for seed in range(20):
            a, b = losses(0.5, seed, n), losses(0.503, 100 + seed, n)
            assert paired(a, b).is_significant == (ttest_rel(a.mean(1).numpy(), b.mean(1).numpy()).pvalue < 0.05)
    assert not paired(losses(1, 0, 1), losses(2, 1, 1)).is_significant


def test_best_knows_which_figures_fall(tmp_path):
    best = Best("coverage")
    for step, value in ((1, 0.2), (2, 0.5), (3, 0.4)):
        best.update("coverage", step, value)
        best.update("val_loss", step, 0.0)
    assert (best.step, best.value) == (2, -0.5)
    with pytest.raises(UserError, match=r"callbacks\.best\.monitor=loss"):
        Best("loss")


def spoiled(images: torch.Tensor, how: str, much: float) -> torch.Tensor:
    if how == "noise":
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + 255 * much * noise).clamp(0, 255).to(torch.uint8)
    if how == "blur":
        return gaussian_blur(images, 9, sigma=10 * much)
    return images[: int((1 - much) * len(images))].repeat(30, 1, 1, 1)[: len(images)]


SPOILED = {"noise": (0.1, 0.4), "blur": (0.1, 0.3), "modes": (0.5, 0.9)}


@pytest.fixture(scope="module")
def two_halves():
    """(the bundled network, images of one half, its features, features of the other); each half sorted by kind."""
    network = features.Denoiser("assets/features")
    images = open_set(DrawnSource("butterflies", 300), (64, 64), "crop")
    order = images.labels.argsort(kind="stable")
    real, others = (torch.from_numpy(images.images[order[k::2]]) for k in (0, 1))
    return network, others, features.features(network, others), features.features(network, real)


@pytest.mark.proof  # looks at 2,400 images with the bundled network
@pytest.mark.parametrize("how", SPOILED)
def test_spoiling_a_set_raises_its_distances(two_halves, how):
    """On images sorted by kind, so that modes are lost as they are dropped."""
    network, others, unspoiled, a = two_halves
    found = [distances.distances(a, unspoiled)]
    for much in SPOILED[how]:
        found.append(distances.distances(a, features.features(network, spoiled(others, how, much))))
    kd, fd = [d.kd.value for d in found], [d.fd for d in found]
    assert kd == sorted(kd)
    assert fd == sorted(fd)
    assert found[0].kd.low < 0 < found[0].kd.high
    assert found[-1].coverage < found[0].coverage
