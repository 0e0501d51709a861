"""guidance.csv and guidance.png: what each term of the guidance did to the images, step by step."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from chrysalis.system.files import written
from chrysalis.system.plotting import COLORS, save, style, subplots
from chrysalis.system.terminal import say

COLUMNS = ("image", "step", "t", "term", "loss", "gradient_norm", "fraction")


class GuidanceFigures:
    """The records of a guided denoiser (see Guided.records) for the images in `names`, as rows of COLUMNS by image."""

    def __init__(self):
        self.names: list[str] = []
        self.rows: dict[str, list[tuple]] = {}

    def add(self, names: Sequence[str], records: Sequence[tuple]) -> None:
        """Keep the records of a batch, to four digits. names: the batch's images, in their order."""
        for k, name in enumerate(names):
            if name in self.names:
                self.rows[name] = [
                    (name, step, t, term, *(float(f"{values[k]:.4g}") for values in numbers))
                    for step, t, term, *numbers in records
                ]

    def save(self, out: Path) -> list[str]:
        """Write both files and return their names; [] where guidance has not acted.

        Rows of images that an earlier command generated come from its guidance.csv; a stopped command has written none.
        """
        found = _read(out / "guidance.csv") | self.rows
        rows = [row for name in self.names for row in found.get(name, [])]
        if missing := sum(name not in found for name in self.names):
            say(f"guidance.csv has no rows for {missing} of the images, which an earlier command generated.")
        if not rows:
            return []
        with written(out / "guidance.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        _plot(out / "guidance.png", rows)
        return ["guidance.csv", "guidance.png"]


def _read(file: Path) -> dict[str, list[tuple]]:
    rows: dict[str, list[tuple]] = {}
    with suppress(OSError, ValueError), open(file, newline="", encoding="utf-8") as lines:  # absent or edited
        for name, step, t, term, *numbers in list(csv.reader(lines))[1:]:
            rows.setdefault(name, []).append((name, int(step), float(t), term, *map(float, numbers)))
    return rows


def _plot(path: Path, rows: list[tuple]) -> None:
    """Plot the loss and fraction of each term over the steps: the median and the quartiles over the images."""
    terms = list(dict.fromkeys(row[3] for row in rows))
    figure, (losses, fractions) = subplots(2, (9, 3.4))
    for colour, term in zip(COLORS * len(terms), terms, strict=False):
        steps = sorted({row[1] for row in rows if row[3] == term})
        for axes, column in ((losses, "loss"), (fractions, "fraction")):
            values = [[row[COLUMNS.index(column)] for row in rows if row[1] == s and row[3] == term] for s in steps]
            low, middle, high = np.array([np.percentile(v, (25, 50, 75)) for v in values]).T
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, middle, color=colour, linewidth=1.8, label=term)
    losses.set(title="loss of each term", xlabel="step")
    fractions.set(title="fraction of the step", xlabel="step", ylim=(0, None))
    losses.legend(frameon=False)
    for axes in (losses, fractions):
        style(axes)
    save(figure, path)
