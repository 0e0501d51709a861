"""The common look of all charts."""

from pathlib import Path

from chrysalis.system.files import written

COLOURS = ("#b5432a", "#1f5fd0", "#5a8f3c", "#8a5fb0", "#c9962a", "#3b9aa8")


def named(name: str) -> str:
    """The name as matplotlib shows it unchanged: it hides labels that begin with _, and sets $ as mathematics."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def style(axes) -> None:
    """Give axes the look that all charts share."""
    axes.title.set_fontsize(11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eee9df")


def save(figure, path: Path) -> None:
    """Write a PNG file, complete or absent, and close the figure."""
    from matplotlib import pyplot as plt

    with written(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    plt.close(figure)


def plain_numbers(axes) -> None:
    """On a log axis, without powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if _is_short(axes) else ""))


def _is_short(axes) -> bool:
    """1, 2 and 5 alone would leave a short log axis without numbers."""
    low, high = axes.get_ylim()
    return high / low < 4
