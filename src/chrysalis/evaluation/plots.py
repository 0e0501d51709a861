"""Loss curves, the figures of a report, and the figure of a sweep."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chrysalis.system.plotting import COLORS, escaped, plain_numbers, save, style, subplots

Histories = Mapping[str, dict]  # the contents of each run's history.json, by the run's name
Figures = list[tuple[str, str, str]]  # (title, caption, SVG)
GREY, SAND = "#8a8275", "#c9c2b4"  # reference lines; raw values behind their average
POINTS = {"capsize": 3, "linewidth": 1.6, "marker": "o", "markersize": 4}  # values with error bars
AT_TIMESTEPS = "Details are decided at small timesteps, shapes at large ones."
DIFFERENCE_CAPTIONS = (
    "Below zero is better than the base model. The band is the standard error over the validation images, the circle "
    "the best step.",
    f"At the best step, with standard errors. {AT_TIMESTEPS}",
)
LOSS_CAPTIONS = (
    "The losses themselves, because the runs have different base models or validation images. The circle is the best "
    "step.",
    f"At the best step. {AT_TIMESTEPS}",
)


def plot_loss_curve(path: Path, training: list[list[float]], validation: list[list[float]]) -> None:
    """Plot loss.png. training: [step, loss, moving average] rows. validation: [step, raw, ema] rows, from step 0, the
    base model."""
    # fixed margins, which fit every run's numbers: finding them would take as long as the rest
    margins = {"left": 0.07, "right": 0.985, "bottom": 0.155, "top": 0.9, "wspace": 0.2}
    figure, (left, right) = subplots(2, (9, 3.4), layout=None, gridspec_kw=margins)
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


def report_figures(histories: Histories, best: Mapping[str, int], colors: Mapping[str, str]) -> Figures:
    """Plot the figures of a report for which there is more than one point. best: the best step of each run."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        return [
            *_validation_figures(histories, best, colors),
            *_sample_figures(histories, colors),
            *_training_figures(histories, colors),
        ]


def _validation_figures(histories: Histories, best: Mapping[str, int], colors: Mapping[str, str]) -> Figures:
    """EMA weights' validation losses, by step and by timestep: their differences from the base model's where all runs
    have the same one, else the losses themselves, because the worst base model has the most to gain."""
    same_base = len({round(history["validation"][0]["ema"], 5) for history in histories.values()}) == 1
    by_step, by_timestep = subplots(1, (8.6, 3.4))[1][0], subplots(1, (8.6, 3.0))[1][0]
    # 1. The curves of each run
    for name, history in histories.items():
        rows, color = history["validation"], colors[name]
        steps = [row["step"] for row in rows]
        at_best = steps.index(best[name])
        if same_base:
            differences = [row["ema_minus_base"] for row in rows]
            losses, errors = ([one[key] or 0 for one in differences] for key in ("mean", "standard_error"))
            low, high = ([y + sign * e for y, e in zip(losses, errors, strict=True)] for sign in (-1, 1))
            by_step.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            timestep_losses = differences[at_best]["by_timestep"]
            timestep_errors = [error or 0 for error in differences[at_best]["standard_error_by_timestep"]]
        else:
            losses, timestep_errors = [row["ema"] for row in rows], None
            timestep_losses = rows[at_best]["ema_by_timestep"]
        label = escaped(name) if len(histories) > 1 else "EMA weights"
        by_step.plot(steps, losses, color=color, linewidth=1.8, marker="o", markersize=3, label=label)
        if len(histories) == 1:
            raw = [row["raw_minus_base"]["mean"] for row in rows]
            by_step.plot(steps, raw, color=SAND, linewidth=1.2, marker="o", markersize=2.5, label="raw weights")
        by_step.plot([best[name]], [losses[at_best]], "o", color=color, markersize=9, fillstyle="none")
        by_timestep.errorbar(history["timesteps"], timestep_losses, timestep_errors, color=color, **POINTS)
    # 2. Axes and captions
    by_step.set(xlabel="optimizer step")
    by_step.legend(frameon=False)
    by_timestep.set(xlabel="timestep (small: little noise)")
    for axes in (by_step, by_timestep):
        if same_base:
            axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
            axes.set(ylabel="difference from the base model")
        else:
            axes.set(ylabel="EMA weights", yscale="log")
            plain_numbers(axes)
    captions = DIFFERENCE_CAPTIONS if same_base else LOSS_CAPTIONS
    titles = ("Validation loss", "Validation loss by timestep")
    return list(zip(titles, captions, (_svg(by_step.figure), _svg(by_timestep.figure)), strict=True))


def _sample_figures(histories: Histories, colors: Mapping[str, str]) -> Figures:
    """KD and near-duplicates by step, each if it was measured more than once."""
    titles = {"kd": "KD: distance to real images", "near_duplicate_fraction": "fraction of near-duplicates"}
    evaluations = {name: history["evaluation"] for name, history in histories.items()}
    keys = [key for key in titles if any(sum(key in row for row in rows) > 1 for rows in evaluations.values())]
    if not keys:
        return []
    figure, columns = subplots(len(keys), (8.6, 3.0))
    caption = "With 95 % intervals."
    for key, axes in zip(keys, columns, strict=True):
        for name, rows in evaluations.items():
            measured = [row for row in rows if key in row]
            values = [row[key] for row in measured]
            # clamped at 0: a bootstrapped interval of few images may not contain its own estimate
            below = [max(0.0, row[key] - row[f"{key}_low"]) for row in measured]
            above = [max(0.0, row[f"{key}_high"] - row[key]) for row in measured]
            axes.errorbar([row["step"] for row in measured], values, [below, above], color=colors[name], **POINTS)
        axes.set(title=titles[key], xlabel="optimizer step")
        if key == "near_duplicate_fraction":
            by_chance = next(row[f"{key}_by_chance"] for rows in evaluations.values() for row in rows if key in row)
            axes.axhline(by_chance, color=GREY, linestyle="--", linewidth=1)
            axes.set(ylim=(0, None))
            caption += " The dashed line is the fraction expected by chance."
    return [("Samples", caption, _svg(figure))]


def _training_figures(histories: Histories, colors: Mapping[str, str]) -> Figures:
    curves = {name: history["training"] for name, history in histories.items() if len(history["training"]) > 1}
    if not curves:
        return []
    figure, (axes,) = subplots(1, (8.6, 2.8))
    for name, rows in curves.items():
        steps, _, averages = zip(*rows, strict=True)
        axes.plot(steps, averages, color=colors[name], linewidth=1.6, label=escaped(name))
    axes.set(xlabel="optimizer step", yscale="log")
    plain_numbers(axes)
    caption = "The moving average of the unweighted loss. It says little about the quality of the samples."
    return [("Training loss", caption, _svg(figure))]


def _svg(figure: Any) -> str:
    """Return the figure as an element of an HTML page."""
    for axes in figure.axes:
        style(axes)
        axes.patch.set_alpha(0)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]


def plot_sweep(path: Path, groups: Mapping[str, list[dict]]) -> None:
    """Plot the mean and the range of each group of runs, given as the contents of their history.json."""
    panels = [("validation", "ema", "validation loss")]
    if any("kd" in row for runs in groups.values() for run in runs for row in run["evaluation"]):
        panels.append(("evaluation", "kd", "KD: distance of samples to real images"))
    figure, columns = subplots(len(panels), (4.8 * len(panels), 3.9))
    for axes, (kind, key, title) in zip(columns, panels, strict=True):
        for color, (name, runs) in zip(COLORS * len(groups), groups.items(), strict=False):
            curves = [{row["step"]: row[key] for row in run[kind] if key in row} for run in runs]
            _plot_band(axes, curves, color, escaped(name))
        axes.set(title=title, xlabel="optimizer step")
        if axes.dataLim.y0 > 0:  # KD is unbiased and may be below 0
            axes.set(yscale="log")
            plain_numbers(axes)
        style(axes)
    n_seeds, entries = max(map(len, groups.values())), columns[0].get_legend_handles_labels()
    title = f"mean and range of {n_seeds} seeds" if n_seeds > 1 else None
    place = {"loc": "outside lower center", "ncols": 2 if max(map(len, groups)) > 24 else 4}
    figure.legend(*entries, **place, frameon=False, fontsize=9, title=title, title_fontsize=9)
    save(figure, path)


def _plot_band(axes: Any, runs: Sequence[Mapping[int, float]], color: str, name: str) -> None:
    """Plot the mean and the range of runs over the steps that all of them have."""
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    values = [[run[step] for run in runs] for step in steps]
    if len(runs) > 1:
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    mean = [sum(v) / len(v) for v in values]
    axes.plot(steps, mean, color=color, linewidth=1.8, marker="o", markersize=3, label=name)
