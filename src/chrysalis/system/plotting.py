"""The common look of all charts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chrysalis.system.files import written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#b5432a", "#1f5fd0", "#5a8f3c", "#8a5fb0", "#c9962a", "#3b9aa8")


def subplots(
    columns: int, size: tuple[float, float], layout: Literal["constrained"] | None = "constrained", **how
) -> tuple[Any, Any]:
    """Make (figure, its axes side by side), `size` inches large; without pyplot, so that no display is needed."""
    from matplotlib.figure import Figure  # slow to import, and needed at the end of a command only

    figure = Figure(size, layout=layout)
    return figure, figure.subplots(1, columns, squeeze=False, **how)[0]


def escaped(name: str) -> str:
    """A label that matplotlib shows as it is: it hides labels that begin with _, and typesets $ as mathematics."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def style(axes: "Axes") -> None:
    """Give axes the look that all charts share."""
    axes.title.set_fontsize(11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eee9df")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with written(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def plain_numbers(axes: "Axes") -> None:
    """Label a logarithmic y axis with plain numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator

    def minor(value: float, _: float) -> str:
        low, high = axes.get_ylim()
        return f"{value:g}" if high / low < 4 else ""  # so short an axis may have no tick at 1, 2 or 5

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(minor)
