"""Figures for people, drawn by matplotlib."""

from pathlib import Path

from chrysalis.files import written

COLOURS = ("#b5432a", "#1f5fd0", "#5a8f3c", "#8a5fb0", "#c9962a", "#3b9aa8")


def loss_curve(path: Path, training: list[list[float]], held_out: list[list[float]]) -> None:
    """training: [step, loss, moving average] rows. held_out: [step, raw, ema] rows, the base model's at step 0."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    if training:
        steps, losses, averages = zip(*training, strict=True)
        left.plot(steps, losses, color="#c9c2b4", linewidth=0.8, label="each logged step")
        left.plot(steps, averages, color="#b5432a", linewidth=1.8, label="moving average")
        left.legend(frameon=False)
    left.set(title="training loss", xlabel="optimizer step", yscale="log")
    steps, raw, averaged = zip(*held_out, strict=True)
    right.axhline(raw[0], color="#8a8275", linestyle="--", linewidth=1, label="base model")
    right.plot(steps, raw, color="#c9c2b4", marker="o", markersize=3, label="raw weights")
    right.plot(steps, averaged, color="#1f5fd0", marker="o", markersize=3, label="averaged weights (EMA)")
    right.set(title="held-out loss (always the same pictures and noise)", xlabel="optimizer step", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _, axes=axes: f"{value:g}" if _few_decades(axes) else "")
        )
        _style(axes)
    _save(figure, path)


def guidance_curves(path: Path, rows: list[list]) -> None:
    """rows: [picture, step, t, term, loss, gradient norm, share]. The median over the pictures, and their quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    terms = list(dict.fromkeys(row[3] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for colour, term in zip(COLOURS * len(terms), terms, strict=False):
        steps = sorted({row[1] for row in rows if row[3] == term})
        for side, column in zip(axes, (4, 6), strict=True):
            values = [[row[column] for row in rows if row[3] == term and row[1] == step] for step in steps]
            low, middle, high = np.array([np.percentile(v, (25, 50, 75)) for v in values]).T
            side.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            side.plot(steps, middle, color=colour, linewidth=1.8, label=term)
    axes[0].set(title="loss of each term", xlabel="step")
    axes[1].set(title="its share of the step", xlabel="step", ylim=(0, None))
    axes[0].legend(frameon=False)
    for side in axes:
        _style(side)
    _save(figure, path)


def _style(axes) -> None:
    axes.title.set_fontsize(11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eee9df")


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    with written(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    plt.close(figure)


def _few_decades(axes) -> bool:
    """On a short log axis the powers of ten alone would leave it without numbers."""
    low, high = axes.get_ylim()
    return high / low < 10
