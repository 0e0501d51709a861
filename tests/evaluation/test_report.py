"""task=evaluate with any model and any images, comparisons of runs, and report.html."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import EVALUATED_RUN, results
from PIL import Image

from chrysalis.evaluation import plots
from chrysalis.evaluation.__main__ import main as compare
from chrysalis.evaluation.__main__ import unique_names
from chrysalis.evaluation.validation_loss import compare_records


def test_any_folder_of_images_can_be_the_reference(run, tmp_path, tiny_features, model_folder, image_folder, capfd):
    model, data = f"model.pretrained={model_folder}", ["data=folder", f"data.path={image_folder}"]
    words = ["task=evaluate", model, *data, *tiny_features, "n=20", "steps=2", "out=samples"]
    assert run("sample", *words) == 0
    log = capfd.readouterr().err
    assert "20 samples vs 24 real images: KD" in log, "few validation images: all images"
    found = json.loads((tmp_path / "samples" / "evaluation.json").read_text())
    assert found["n_samples"] == 20
    assert any("FD needs more images than" in note for note in found["notes"])
    page = (tmp_path / "samples" / "report.html").read_text()
    assert 0 < page.index("<img") < page.index("<table")
    assert {"grid.png", "nearest.png", "report.html", "settings.json"} <= {
        p.name for p in (tmp_path / "samples").iterdir()
    }
    assert run("sample", *words) == 0  # complete: not sampled again, but evaluated
    assert json.loads((tmp_path / "samples" / "evaluation.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=evaluate"], "task=evaluate needs images to compare with"),
        (["task=evaluate", "data=butterflies", "task.features=null"], "task.features=null"),
        (["task=evaluate", "data=butterflies", "data.n=2"], "too few usable images"),
        (["task=evaluate", "data=butterflies", "features=inception"], "features.weights"),
        (["task=evaluate", "data=butterflies", "features.timestep=3"], "features.timestep=3"),
        (["task=evaluate", "data=butterflies", "features=dinov2"], "no network"),
    ],
)
def test_mistakes(run, capfd, model_folder, words, message, tmp_path):
    assert run("sample", *words, f"model.pretrained={model_folder}", "out=samples", "n=2") == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["here", "there"], "here is neither a finished run nor an evaluated model"),
        (["here"], "two folders or more"),
    ],
)
def test_a_comparison_names_what_it_cannot_compare(folders, message, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare(folders) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_data_set_smaller_than_a_training_batch_can_be_the_reference(run, tmp_path, tiny_features, model_folder):
    few = ["data=butterflies", "data.n=5", *tiny_features, f"model.pretrained={model_folder}"]
    assert run("sample", "task=evaluate", *few, "n=2", "steps=2", "out=samples") == 0
    assert json.loads((tmp_path / "samples" / "evaluation.json").read_text())["n_real"] == 5


def test_runs_are_compared_in_one_table_and_page(run, trained, tmp_path, tiny_features, capfd):
    trained(*EVALUATED_RUN, *tiny_features)
    assert run("train", *EVALUATED_RUN, *tiny_features, "name=b", "seed=98") == 0
    assert compare(["runs/a", "runs/b", "--out", "both/comparison.html"]) == 0
    log = capfd.readouterr().err
    for name in ("a", "b"):
        assert f"{results(tmp_path / 'runs' / name)['val_loss']:.5f}" in log
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "the page is self-contained"
    losses = [results(tmp_path / "runs" / name)["validation"]["loss_by_image"] for name in ("a", "b")]
    both = sorted(losses[0].keys() & losses[1].keys())
    assert len(both) >= 2
    change = np.array([losses[1][key] - losses[0][key] for key in both])
    assert f"{change.mean():+.5f} ± {change.std(ddof=1) / math.sqrt(len(both)):.5f}" in page
    assert page.count("<svg") == 4
    assert page.rindex("<img") < page.index("<svg"), "images first"
    assert "; samples at the best step still differ from real images: KD " in page, "unescaped"
    assert page.count("data:image/png") >= 6
    assert "<th>" in page
    assert "runs/a, runs/b" not in page, "the shared parent folder is left out"


def test_runs_of_the_same_name_are_numbered():
    """Folders outside the working folder are shown by their last name alone."""
    assert unique_names([".../a", "b", ".../a", ".../a"]) == [".../a", "b", ".../a (2)", ".../a (3)"]


def test_runs_from_different_base_models_are_compared_by_their_losses(tmp_path):
    """The worst base model has the most to gain."""
    histories = {}
    for name, losses in {"near": (0.15, 0.10), "scratch": (0.57, 0.19)}.items():
        rows = [{"step": s, "ema": v, "raw": v, "ema_by_timestep": [v, v]} for s, v in zip((0, 9), losses, strict=True)]
        for row in rows:
            change = row["ema"] - losses[0]
            gained = {
                "mean": change,
                "standard_error": 0.01,
                "by_timestep": [change] * 2,
                "standard_error_by_timestep": [0.01] * 2,
            }
            row |= {"ema_minus_base": gained, "raw_minus_base": gained}
        histories[name] = {"validation": rows, "timesteps": [250, 750], "evaluation": [], "training": []}
    best, colours = dict.fromkeys(histories, 9), dict(zip(histories, plots.COLORS, strict=False))
    apart = plots.report_figures(histories, best, colours)
    alone = plots.report_figures({"near": histories["near"]}, best, colours)
    for ours, theirs in zip(apart[:2], alone[:2], strict=True):
        assert "difference from the base model" in theirs[2]
        assert "difference from the base model" not in ours[2]
    assert "different base models" in apart[0][1]
    assert [title for title, *_ in alone] == ["Validation loss", "Validation loss by timestep"]


def test_no_figure_has_a_single_point(tmp_path):
    gained = {"mean": -0.1, "standard_error": 0.01, "by_timestep": [-0.1] * 2, "standard_error_by_timestep": [0.01] * 2}
    row = {"ema": 0.1, "raw": 0.1, "ema_by_timestep": [0.1] * 2, "ema_minus_base": gained, "raw_minus_base": gained}
    kd = {"kd": 0.1, "kd_low": 0.2, "kd_high": 0.3}  # a bootstrapped interval need not contain its estimate

    def titles(n: int) -> list[str]:
        evaluations, training = [{"step": k, **kd} for k in range(n)], [[k, 0.1, 0.1] for k in range(n)]
        history = {"validation": [{"step": 0, **row}, {"step": 9, **row}], "timesteps": [250, 750]}
        history |= {"evaluation": evaluations, "training": training}
        return [title for title, *_ in plots.report_figures({"a": history}, {"a": 9}, {"a": "#000000"})]

    assert titles(1) == ["Validation loss", "Validation loss by timestep"]
    assert titles(2) == ["Validation loss", "Validation loss by timestep", "Samples", "Training loss"]


def test_a_runs_model_evaluated_again_has_the_same_validation_losses(run, tmp_path, tiny_features, capfd):
    assert (
        run(
            "train",
            *EVALUATED_RUN,
            *tiny_features,
            "callbacks.validation.n_images=6",
            "callbacks.validation.timesteps=8",
        )
        == 0
    )
    data = ["data=butterflies", "data.n=150", "data.seed=0"]
    sampling = ["model.pretrained=runs/a", *data, *tiny_features, "n=20", "steps=2", "out=samples"]
    assert run("sample", "task=evaluate", *sampling) == 0
    ran = results(tmp_path / "runs" / "a")["validation"]
    again = json.loads((tmp_path / "samples" / "evaluation.json").read_text())["validation"]
    assert len(ran["loss_by_image"]) == 6
    assert len(again["loss_by_image"]) > 6, "all validation images"
    for key, loss in ran["loss_by_image"].items():
        assert again["loss_by_image"][key] == pytest.approx(loss, rel=1e-5)
    assert compare(["runs/a", "samples"]) == 0
    assert "0.00000 ± 0.00000" in capfd.readouterr().err
    for key, value, why in (
        ("prediction", "sample", "prediction targets"),
        ("image_size", [32, 32], "image sizes"),
        ("loss_by_image", {}, "validation images"),
    ):
        assert re.match(f"not comparable: different {why}", compare_records(ran, {**again, key: value}))


def test_a_validation_fraction_other_than_the_runs_is_warned_of(run, tmp_path, tiny_features, capfd):
    assert run("train", *EVALUATED_RUN, "callbacks.evaluate.n=0", "data.val_fraction=0.4") == 0
    words = [
        "task=evaluate",
        "model.pretrained=runs/a",
        "data=butterflies",
        "data.n=60",
        *tiny_features,
        "n=2",
        "steps=2",
    ]
    capfd.readouterr()
    assert run("sample", *words, "out=samples") == 0
    assert "runs/a was trained with data.val_fraction=0.4" in capfd.readouterr().err
    assert run("sample", *words, "data.val_fraction=0.4", "out=samples") == 0, "the same samples, evaluated again"
    assert "was trained with data.val_fraction" not in capfd.readouterr().err
    assert (
        run("sample", *words, "data.val_fraction=0.4", "task.n_nearest=1", "features.timestep=0.2", "out=samples") == 0
    )


def test_runs_with_odd_names_are_compared_and_damaged_ones_refused(run, tmp_path, tiny_features, capfd):
    assert run("train", *EVALUATED_RUN, "callbacks.evaluate.n=0", "name=_a", "trainer.max_steps=2") == 0
    shutil.copytree(tmp_path / "runs" / "_a", tmp_path / "runs" / "b_$5_and_$6")
    both = ["runs/_a", "runs/b_$5_and_$6"]
    assert compare([*both, "--out", "both/comparison.html"]) == 0
    assert "both/comparison.html" in capfd.readouterr().err
    page = (tmp_path / "both" / "comparison.html").read_text()
    for name in ("_a", "b_$5_and_$6"):
        assert re.search(rf"<text [^>]*>\s*{re.escape(name)}</text>", page), "in the legend, as it is"
    file = tmp_path / "runs" / "_a" / "results.json"
    file.write_text(json.dumps({"command": "python train.py"}))
    assert compare(both) == 2
    assert "runs/_a/results.json is missing or damaged" in capfd.readouterr().err


@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser")
def test_the_report_opens_in_a_browser(run, tmp_path, tiny_features):
    assert run("train", *EVALUATED_RUN, *tiny_features, "export.report=true") == 0
    page, shot = tmp_path / "runs" / "a" / "report.html", tmp_path / "shot.png"
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,2400"]
    subprocess.run([*browser, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120)
    screenshot = np.asarray(Image.open(shot).convert("L"))
    assert screenshot.shape == (2400, 1000)
    assert (screenshot < 128).mean() > 0.002, "text and curves"
