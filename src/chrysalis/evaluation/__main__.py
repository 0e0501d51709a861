"""Compare runs in one table, on screen and as a page: python -m chrysalis.evaluation runs/a runs/b."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chrysalis.evaluation import report
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.terminal import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the folders that the command line names; return the exit code, 2 for a folder that has no results."""
    parser = argparse.ArgumentParser(prog="python -m chrysalis.evaluation", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="runs/NAME, or a folder that task=evaluate wrote")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="the page to write (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        compare(given.folders, given.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def compare(folders: Sequence[Path], page: Path) -> None:
    """Compare two or more runs, or folders that task=evaluate wrote; raises UserError for one without results."""
    if len(folders) < 2:
        raise UserError("A comparison needs two folders or more, such as runs/a runs/b.")
    subjects = [report.load(folder) for folder in folders]
    in_one_folder = len({folder.resolve().parent for folder in folders}) == 1
    names = [folder.name for folder in folders] if in_one_folder else [subject.name for subject in subjects]
    subjects = [replace(s, name=name) for s, name in zip(subjects, unique_names(names), strict=True)]
    report.write(page, subjects)
    report.print_table(subjects)
    say(f"the same table with curves and images: {shown(page)}")


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the repetitions of a name: tables and figures tell runs apart by name."""
    return [f"{name} ({n + 1})" if (n := names[:i].count(name)) else name for i, name in enumerate(names)]


if __name__ == "__main__":
    sys.exit(main())
