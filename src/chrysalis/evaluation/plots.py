"""Figures for people, drawn by matplotlib."""

from pathlib import Path

from chrysalis.system.plotting import COLOURS, named, plain_numbers, save, style


def loss_curve(path: Path, training: list[list[float]], validation: list[list[float]]) -> None:
    """training: [step, loss, moving average] rows. validation: [step, raw, ema] rows, the base model's at step 0."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # fixed margins, which every run's numbers fit into: looking for them would take as long as all the rest
    margins = {"left": 0.07, "right": 0.985, "bottom": 0.155, "top": 0.9, "wspace": 0.2}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), gridspec_kw=margins)
    if len(training) > 1:
        steps, losses, averages = zip(*training, strict=True)
        left.plot(steps, losses, color="#c9c2b4", linewidth=0.8, label="each logged step")
        left.plot(steps, averages, color="#b5432a", linewidth=1.8, label="moving average")
        left.legend(frameon=False)
    left.set(title="training loss (unweighted, as the validation loss is)", xlabel="optimizer step", yscale="log")
    steps, raw, averaged = zip(*validation, strict=True)
    right.axhline(raw[0], color="#8a8275", linestyle="--", linewidth=1, label="base model")
    right.plot(steps, raw, color="#c9c2b4", marker="o", markersize=3, label="raw weights")
    right.plot(steps, averaged, color="#1f5fd0", marker="o", markersize=3, label="EMA weights")
    right.set(title="validation loss (always the same images and noise)", xlabel="optimizer step", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        plain_numbers(axes)
        style(axes)
    save(figure, path)


def report_figures(histories: dict[str, dict], best: dict[str, int], colours: dict[str, str]) -> list[tuple]:
    """(title, what it shows, SVG) of each figure of a report. histories: of runs by name, as in history.json; best:
    the best step of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    made = []
    with plt.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        made += _validation_figures(histories, best, colours)

        made += _sample_figures(histories, colours)

        curves = {name: history["training"] for name, history in histories.items() if len(history["training"]) > 1}
        if curves:
            figure, axes = plt.subplots(figsize=(8.6, 2.8), layout="constrained")
            for name, rows in curves.items():
                steps, _, averages = zip(*rows, strict=True)
                axes.plot(steps, averages, color=colours[name], linewidth=1.6, label=named(name))
            axes.set(xlabel="optimizer step", yscale="log")
            plain_numbers(axes)
            says = "Its moving average, unweighted as the validation loss is; it says little about the samples."
            made.append(("Training loss", says, _svg(figure)))
    return made


def _sample_figures(histories: dict[str, dict], colours: dict[str, str]) -> list[tuple]:
    """Of what was measured more than once."""
    from matplotlib import pyplot as plt

    titles = {"kd": "KD: distance to real images", "copies_share": "share of near-duplicates"}
    evaluations = [history["evaluation"] for history in histories.values()]
    keys = [key for key in titles if any(sum(key in row for row in rows) > 1 for rows in evaluations)]
    if not keys:
        return []
    figure, (sides,) = plt.subplots(1, len(keys), figsize=(8.6, 3.0), layout="constrained", squeeze=False)
    says = "With 95 % intervals."
    for key, axes in zip(keys, sides, strict=True):
        for name, history in histories.items():
            _interval(axes, [row for row in history["evaluation"] if key in row], key, colours[name])
        axes.set(title=titles[key], xlabel="optimizer step")
        if key == "copies_share":
            axes.axhline(0.05, color="#8a8275", linestyle="--", linewidth=1)
            axes.set(ylim=(0, None))
            says += " The dashed line is the share that chance alone flags."
    return [("Samples", says, _svg(figure, sides))]


def _validation_figures(histories: dict[str, dict], best: dict[str, int], colours: dict[str, str]) -> list[tuple]:
    """As differences to the base model; of runs that began with different ones, as the losses themselves, for the
    worst beginning leaves the most to gain."""
    from matplotlib import pyplot as plt

    alike = len({round(history["validation"][0]["ema"], 5) for history in histories.values()}) == 1
    figure, over_steps = plt.subplots(figsize=(8.6, 3.4), layout="constrained")
    figures = [figure]
    figure, by_timestep = plt.subplots(figsize=(8.6, 3.0), layout="constrained")
    figures.append(figure)
    for name, history in histories.items():
        rows, colour = history["validation"], colours[name]
        at_best = next(row for row in rows if row["step"] == best[name])
        how = {"color": colour, "marker": "o", "markersize": 4}
        if alike:
            _validation(over_steps, named(name) if len(histories) > 1 else None, history, best[name], colour)
            change = at_best["ema_minus_base"]
            errors = [error or 0 for error in change["error_by_bin"]]
            by_timestep.errorbar(history["timesteps"], change["by_bin"], errors, capsize=3, **how)
        else:
            over_steps.plot([row["step"] for row in rows], [row["ema"] for row in rows], **how, label=named(name))
            over_steps.plot([best[name]], [at_best["ema"]], "o", color=colour, markersize=9, fillstyle="none")
            by_timestep.plot(history["timesteps"], at_best["ema_by_timestep"], **how)
    over_steps.set(xlabel="optimizer step")
    by_timestep.set(xlabel="timestep: from little noise to much")
    for axes in (over_steps, by_timestep):
        if alike:
            axes.axhline(0, color="#8a8275", linestyle="--", linewidth=1)
            axes.set(ylabel="difference to the base model")
        else:
            axes.set(ylabel="EMA weights", yscale="log")
            plain_numbers(axes)
    over_steps.legend(frameon=False)
    if alike:
        first = "Below zero is better than the base model. The band is the standard error over the validation images."
        second = "At the best step, with standard errors: little noise asks for detail, much noise for the whole."
    else:
        first = (
            "The runs began with different models, or have other validation images: these are the losses themselves."
        )
        second = "At the best step: little noise asks for detail, much noise for the whole."
    titles = ("Validation loss", first), ("Validation loss by timestep", second)
    return [(*title, _svg(figure)) for title, figure in zip(titles, figures, strict=True)]


def _validation(axes, name: str | None, history: dict, best: int, colour: str) -> None:
    rows = history["validation"]
    steps = [r["step"] for r in rows]
    mean, error = ([r["ema_minus_base"][k] or 0 for r in rows] for k in ("mean", "error"))
    low, high = ([m + sign * e for m, e in zip(mean, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(steps, mean, color=colour, linewidth=1.8, marker="o", markersize=3, label=name or "EMA weights")
    if name is None:
        raw = [r["raw_minus_base"]["mean"] for r in rows]
        axes.plot(steps, raw, color="#c9c2b4", linewidth=1.2, marker="o", markersize=2.5, label="raw weights")
    axes.plot([best], [mean[steps.index(best)]], "o", color=colour, markersize=9, fillstyle="none")


def _interval(axes, rows: list[dict], key: str, colour: str) -> None:
    steps = [r["step"] for r in rows]
    low, middle, high = ([r[f"{key}{end}"] for r in rows] for end in ("_low", "", "_high"))
    # at 0 where a bootstrapped interval leaves out the estimate it was made for, as it may at few images
    below = [max(0.0, m - a) for m, a in zip(middle, low, strict=True)]
    above = [max(0.0, b - m) for m, b in zip(middle, high, strict=True)]
    if steps:
        bars = [below, above]
        axes.errorbar(steps, middle, yerr=bars, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.6)


def _svg(figure, sides=None) -> str:
    """As an element of a page."""
    import io

    from matplotlib import pyplot as plt

    for axes in figure.axes if sides is None else sides:
        style(axes)
        axes.patch.set_alpha(0)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def sweep_figure(path: Path, groups: dict[str, list[dict]]) -> None:
    """groups: by what their jobs have in common, the contents of their history.json. Mean and range of each group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    evaluated = any("kd" in row for runs in groups.values() for run in runs for row in run["evaluation"])
    figure, sides = plt.subplots(
        1, 1 + evaluated, figsize=(4.8 * (1 + evaluated), 3.9), layout="constrained", squeeze=False
    )
    for colour, (name, runs) in zip(COLOURS * len(groups), groups.items(), strict=False):
        _band(sides[0][0], [{r["step"]: r["ema"] for r in run["validation"]} for run in runs], colour, named(name))
        if evaluated:
            kd = [{r["step"]: r["kd"] for r in run["evaluation"] if "kd" in r} for run in runs]
            _band(sides[0][1], kd, colour, named(name))
    sides[0][0].set(title="validation loss", xlabel="optimizer step", yscale="log")
    plain_numbers(sides[0][0])
    if evaluated:
        sides[0][1].set(title="KD: distance of samples to real images", xlabel="optimizer step")
        if sides[0][1].dataLim.y0 > 0:  # unbiased, it may be below 0
            sides[0][1].set(yscale="log")
            plain_numbers(sides[0][1])
    most = max(len(runs) for runs in groups.values())
    figure.legend(
        *sides[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2 if max(map(len, groups)) > 24 else 4,
        frameon=False,
        fontsize=9,
        title=f"mean and range of {most} seeds" if most > 1 else None,
        title_fontsize=9,
    )
    for axes in sides[0]:
        style(axes)
    save(figure, path)


def _band(axes, runs: list[dict[int, float]], colour: str, name: str) -> None:
    """The mean of runs over the steps that all of them have, and from the least to the most."""
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    values = [[run[step] for run in runs] for step in steps]
    if len(runs) > 1:
        axes.fill_between(
            steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.18, linewidth=0
        )
    axes.plot(
        steps, [sum(v) / len(v) for v in values], color=colour, linewidth=1.8, marker="o", markersize=3, label=name
    )
