"""Loss curves, the figures of a report, and the figure of a sweep."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chrysalis.system.plotting import COLOURS, named, plain_numbers, save, style

Histories = Mapping[str, dict]  # the contents of each run's history.json, by the run's name
Figures = list[tuple[str, str, str]]  # (title, caption, SVG)
GREY, SAND = "#8a8275", "#c9c2b4"  # of reference lines; of raw values behind their average


def _pyplot() -> Any:
    """matplotlib.pyplot without a display; slow to import, and needed at the end of a run only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def loss_curve(path: Path, training: list[list[float]], validation: list[list[float]]) -> None:
    """Plot loss.png. training: [step, loss, moving average] rows. validation: [step, raw, ema] rows, from step 0, the
    base model."""
    # fixed margins, which fit every run's numbers: finding them would take as long as the rest
    margins = {"left": 0.07, "right": 0.985, "bottom": 0.155, "top": 0.9, "wspace": 0.2}
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(9, 3.4), gridspec_kw=margins)
    if len(training) > 1:
        steps, losses, averages = zip(*training, strict=True)
        left.plot(steps, losses, color=SAND, linewidth=0.8, label="each logged step")
        left.plot(steps, averages, color="#b5432a", linewidth=1.8, label="moving average")
        left.legend(frameon=False)
    left.set(title="training loss (unweighted, like the validation loss)", xlabel="optimizer step", yscale="log")
    steps, raw, ema = zip(*validation, strict=True)
    right.axhline(raw[0], color=GREY, linestyle="--", linewidth=1, label="base model")
    right.plot(steps, raw, color=SAND, marker="o", markersize=3, label="raw weights")
    right.plot(steps, ema, color="#1f5fd0", marker="o", markersize=3, label="EMA weights")
    right.set(title="validation loss (always the same images and noise)", xlabel="optimizer step", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        plain_numbers(axes)
        style(axes)
    save(figure, path)


def report_figures(histories: Histories, best: Mapping[str, int], colours: Mapping[str, str]) -> Figures:
    """Plot the figures of a report for which there is more than one point. best: the best step of each run."""
    with _pyplot().rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        same_base = len({round(history["validation"][0]["ema"], 5) for history in histories.values()}) == 1
        validation = _gain_figures if same_base else _loss_figures
        return [
            *validation(histories, best, colours),
            *_sample_figures(histories, colours),
            *_training_figures(histories, colours),
        ]


def _gain_figures(histories: Histories, best: Mapping[str, int], colours: Mapping[str, str]) -> Figures:
    """Validation losses minus the base model's, by step and by timestep."""
    by_step, by_timestep = _axes(3.4), _axes(3.0)
    for name, history in histories.items():
        _gain(by_step, named(name) if len(histories) > 1 else None, history, best[name], colours[name])
        gain = next(row for row in history["validation"] if row["step"] == best[name])["ema_minus_base"]
        errors = [error or 0 for error in gain["standard_error_by_timestep"]]
        by_timestep.errorbar(history["timesteps"], gain["by_timestep"], errors, capsize=3, **_line(colours[name]))
    for axes in (by_step, by_timestep):
        axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
        axes.set(ylabel="difference to the base model")
    captions = (
        "Below zero is better than the base model. The band is the standard error over the validation images, the "
        "circle the best step.",
        "At the best step, with standard errors. Details are decided at small timesteps, shapes at large ones.",
    )
    return _validation_figures(by_step, by_timestep, captions)


def _loss_figures(histories: Histories, best: Mapping[str, int], colours: Mapping[str, str]) -> Figures:
    """The validation losses themselves, for runs from different base models: the worst one has the most to gain."""
    by_step, by_timestep = _axes(3.4), _axes(3.0)
    for name, history in histories.items():
        rows, colour = history["validation"], colours[name]
        at_best = next(row for row in rows if row["step"] == best[name])
        by_step.plot([row["step"] for row in rows], [row["ema"] for row in rows], **_line(colour), label=named(name))
        by_step.plot([best[name]], [at_best["ema"]], "o", color=colour, markersize=9, fillstyle="none")
        by_timestep.plot(history["timesteps"], at_best["ema_by_timestep"], **_line(colour))
    for axes in (by_step, by_timestep):
        axes.set(ylabel="EMA weights", yscale="log")
        plain_numbers(axes)
    captions = (
        "The losses themselves, because the runs have different base models or validation images. The circle is the "
        "best step.",
        "At the best step. Details are decided at small timesteps, shapes at large ones.",
    )
    return _validation_figures(by_step, by_timestep, captions)


def _axes(height: float) -> Any:
    return _pyplot().subplots(figsize=(8.6, height), layout="constrained")[1]


def _line(colour: str) -> dict[str, Any]:
    return {"color": colour, "marker": "o", "markersize": 4}


def _validation_figures(by_step: Any, by_timestep: Any, captions: tuple[str, str]) -> Figures:
    by_step.set(xlabel="optimizer step")
    by_step.legend(frameon=False)
    by_timestep.set(xlabel="timestep (small: little noise)")
    titles = ("Validation loss", "Validation loss by timestep")
    figures = (_svg(by_step.figure), _svg(by_timestep.figure))
    return list(zip(titles, captions, figures, strict=True))


def _gain(axes: Any, name: str | None, history: dict, best: int, colour: str) -> None:
    rows = history["validation"]
    steps = [row["step"] for row in rows]
    mean, error = ([row["ema_minus_base"][key] or 0 for row in rows] for key in ("mean", "standard_error"))
    low, high = ([m + sign * e for m, e in zip(mean, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(steps, mean, color=colour, linewidth=1.8, marker="o", markersize=3, label=name or "EMA weights")
    if name is None:
        raw = [row["raw_minus_base"]["mean"] for row in rows]
        axes.plot(steps, raw, color=SAND, linewidth=1.2, marker="o", markersize=2.5, label="raw weights")
    axes.plot([best], [mean[steps.index(best)]], "o", color=colour, markersize=9, fillstyle="none")


def _sample_figures(histories: Histories, colours: Mapping[str, str]) -> Figures:
    """KD and near-duplicates by step, each if it was measured more than once."""
    titles = {"kd": "KD: distance to real images", "near_duplicate_fraction": "fraction of near-duplicates"}
    evaluations = [history["evaluation"] for history in histories.values()]
    keys = [key for key in titles if any(sum(key in row for row in rows) > 1 for rows in evaluations)]
    if not keys:
        return []
    figure, (columns,) = _pyplot().subplots(1, len(keys), figsize=(8.6, 3.0), layout="constrained", squeeze=False)
    caption = "With 95 % intervals."
    for key, axes in zip(keys, columns, strict=True):
        for name, history in histories.items():
            _intervals(axes, [row for row in history["evaluation"] if key in row], key, colours[name])
        axes.set(title=titles[key], xlabel="optimizer step")
        if key == "near_duplicate_fraction":
            by_chance = next(row[f"{key}_by_chance"] for rows in evaluations for row in rows if key in row)
            axes.axhline(by_chance, color=GREY, linestyle="--", linewidth=1)
            axes.set(ylim=(0, None))
            caption += " The dashed line is the fraction expected by chance."
    return [("Samples", caption, _svg(figure))]


def _intervals(axes: Any, rows: Sequence[dict], key: str, colour: str) -> None:
    if not rows:
        return
    low, middle, high = ([row[f"{key}{end}"] for row in rows] for end in ("_low", "", "_high"))
    # clamped at 0: a bootstrapped interval of few images may not contain its own estimate
    below = [max(0.0, m - a) for m, a in zip(middle, low, strict=True)]
    above = [max(0.0, b - m) for m, b in zip(middle, high, strict=True)]
    steps = [row["step"] for row in rows]
    axes.errorbar(steps, middle, yerr=[below, above], capsize=3, linewidth=1.6, **_line(colour))


def _training_figures(histories: Histories, colours: Mapping[str, str]) -> Figures:
    curves = {name: history["training"] for name, history in histories.items() if len(history["training"]) > 1}
    if not curves:
        return []
    axes = _axes(2.8)
    for name, rows in curves.items():
        steps, _, averages = zip(*rows, strict=True)
        axes.plot(steps, averages, color=colours[name], linewidth=1.6, label=named(name))
    axes.set(xlabel="optimizer step", yscale="log")
    plain_numbers(axes)
    caption = "The moving average of the unweighted loss. It says little about the quality of the samples."
    return [("Training loss", caption, _svg(axes.figure))]


def _svg(figure: Any) -> str:
    """Close the figure and return it as an element of an HTML page."""
    for axes in figure.axes:
        style(axes)
        axes.patch.set_alpha(0)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    _pyplot().close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def sweep_figure(path: Path, groups: Mapping[str, list[dict]]) -> None:
    """Plot the mean and the range of each group of runs, given as the contents of their history.json."""
    evaluated = any("kd" in row for runs in groups.values() for run in runs for row in run["evaluation"])
    width = 4.8 * (1 + evaluated)
    figure, (columns,) = _pyplot().subplots(1, 1 + evaluated, figsize=(width, 3.9), layout="constrained", squeeze=False)
    for colour, (name, runs) in zip(COLOURS * len(groups), groups.items(), strict=False):
        _band(columns[0], [{row["step"]: row["ema"] for row in run["validation"]} for run in runs], colour, named(name))
        if evaluated:
            kd = [{row["step"]: row["kd"] for row in run["evaluation"] if "kd" in row} for run in runs]
            _band(columns[1], kd, colour, named(name))
    columns[0].set(title="validation loss", xlabel="optimizer step", yscale="log")
    plain_numbers(columns[0])
    if evaluated:
        columns[1].set(title="KD: distance of samples to real images", xlabel="optimizer step")
        if columns[1].dataLim.y0 > 0:  # unbiased, it may be below 0
            columns[1].set(yscale="log")
            plain_numbers(columns[1])
    n_seeds = max(len(runs) for runs in groups.values())
    figure.legend(
        *columns[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2 if max(map(len, groups)) > 24 else 4,
        frameon=False,
        fontsize=9,
        title=f"mean and range of {n_seeds} seeds" if n_seeds > 1 else None,
        title_fontsize=9,
    )
    for axes in columns:
        style(axes)
    save(figure, path)


def _band(axes: Any, runs: Sequence[Mapping[int, float]], colour: str, name: str) -> None:
    """Plot the mean and the range of runs over the steps that all of them have."""
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    values = [[run[step] for run in runs] for step in steps]
    if len(runs) > 1:
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    mean = [sum(v) / len(v) for v in values]
    axes.plot(steps, mean, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
