"""Early stopping on significant improvements of the validation loss, and the choice of the best step."""

import pytest
from conftest import EVALUATED_RUN, results
from tiny import losses

from benchmarks import early_stopping
from chrysalis.training.callbacks.checkpoint import Best
from chrysalis.training.callbacks.early_stopping import EarlyStopping


@pytest.mark.proof
def test_early_stopping_that_can_never_act_is_reported(run, capfd, tiny_features):
    assert run("train", *EVALUATED_RUN, *tiny_features, "callbacks=early_stopping", "preflight=only") == 0
    assert "callbacks=early_stopping cannot stop this run" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("means", "stops_at"),
    [
        ([1.0, 0.8, 0.6, 0.5, 0.45, 0.43], None),
        ([1.0, 0.8, 0.6, 0.62, 0.64, 0.66], 5),
        ([1.0, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6], 5),
        ([1.0, 0.8, 0.82, 0.82, 0.7, 0.72, 0.74, 0.76], 7),
    ],
)
def test_early_stopping_waits_for_a_significant_improvement(means, stops_at):
    callback, stopped = EarlyStopping(patience=3), None
    for i, mean in enumerate(means):
        callback.update(100 * i, losses(mean, i))
        if callback.waited >= 3 and stopped is None:
            stopped = i
    assert stopped == stops_at


def test_a_run_stops_early_and_reports_it(run, tmp_path, capfd):
    early = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=10", "callbacks.early_stopping.patience=2"]
    early += ["callbacks.validation.every_n_train_steps=1"]
    assert run("train", *EVALUATED_RUN, *early, "callbacks.evaluate.n=0", "trainer.max_steps=40",
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
        words = [*EVALUATED_RUN, "callbacks.evaluate.n=0", *steps, "callbacks=early_stopping", *words, f"name={name}"]
        assert run("train", *words) == 0
    live = results(tmp_path / "runs" / "live")["steps"]
    recorded = early_stopping.measured(tmp_path / "runs" / "on")
    assert max(recorded) == 12
    assert early_stopping.stopped(recorded, EarlyStopping(**rule)) == live < 12
    assert early_stopping.stopped(recorded, EarlyStopping(patience=99)) == 12


def test_best_knows_which_metrics_fall():
    best = Best("coverage")
    for step, value in ((1, 0.2), (2, 0.5), (3, 0.4)):
        best.update("coverage", step, value)
        best.update("val_loss", step, 0.0)
    assert (best.step, best.value) == (2, -0.5)
