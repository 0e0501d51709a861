"""guidance.png: what each term of the guidance did, step by step."""

from pathlib import Path

from chrysalis.system.plotting import COLOURS, save, style


def curves(path: Path, rows: list[list]) -> None:
    """rows: [image, step, t, term, loss, gradient norm, share]. The median over the images, and their quartiles."""
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
        style(side)
    save(figure, path)
