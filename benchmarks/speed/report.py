"""Measured rows with the raw runs of every side, as JSON that is added to and as a table for the docs."""

import json
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from chrysalis.system.files import REPOSITORY, write_text

SIDES = ("plain", "script", "ours")


@dataclass
class Row:
    """One comparison. plain, script, ours: the raw runs of each side; only ours where there is no counterpart.

    target: limit of ours / plain, or of ours where there is no plain; script_target: limit of ours / script; None: no
    target. at_least: whether more is better. notes: explanations. seconds: the duration of the measurement. failed: why
    there is no figure.
    """

    name: str
    what: str
    unit: str
    target: float | None
    at_least: bool = True
    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    failed: str | None = None
    script: list[float] = field(default_factory=list)
    script_target: float | None = None
    seconds: float | None = None

    def ratio(self, to: str = "plain") -> float | None:
        theirs = getattr(self, to)
        return statistics.median(self.ours) / statistics.median(theirs) if theirs and self.ours else None

    @property
    def reached(self) -> bool | None:
        """Whether every target is reached; None without targets, False where a figure is missing."""
        if self.failed:
            return False
        if self.target is None and self.script_target is None:
            return None
        if not self.ours:
            return False
        to_plain = self.ratio("plain") if self.plain else statistics.median(self.ours)
        figures = ((to_plain, self.target), (self.ratio("script"), self.script_target))
        judged = [(figure, limit) for figure, limit in figures if figure is not None and limit is not None]
        return all(figure >= limit if self.at_least else figure <= limit for figure, limit in judged)

    def record(self) -> dict:
        medians = {
            f"{side}_median": statistics.median(runs) if (runs := getattr(self, side)) else None for side in SIDES
        }
        ratios = {"ratio": self.ratio("plain"), "script_ratio": self.ratio("script")}
        return {**asdict(self), **medians, **ratios, "reached": self.reached}


def slug(hardware: str) -> str:
    """'Intel(R) Xeon(R) Processor (2 threads)' -> 'intel-xeon-2-threads'."""
    words = re.sub(r"\((r|tm)\)|\b(processor|cpu)\b|@.*?hz", " ", hardware.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def without_folders(text: str) -> str:
    """'--data /home/me/images' -> '--data .../images': results are published and must not name folders."""
    return re.sub(r"(?<![\w.])(\.\.|~)?/(\S*/)?", ".../", text)


def commit() -> str | None:
    """The current commit; None without git or the repository's history."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write(folder: Path, machine: str, about: dict, rows: Sequence[Row]) -> tuple[Path, Path]:
    """Write these rows, and earlier ones of other names, as (JSON, markdown) files.

    about: commit, date, command ... of this measurement, recorded with each of its rows.
    """
    path = folder / f"{slug(machine)}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    fresh = [{**row.record(), "measured": about} for row in rows]
    kept = {record["name"]: record for record in [*before, *fresh]}
    write_text(path, json.dumps({"machine": machine, "rows": list(kept.values())}, indent=2) + "\n")
    page = path.with_suffix(".md")
    write_text(page, markdown(machine, list(kept.values())))
    return path, page


def tables(folder: Path) -> str:
    """Markdown of every measured machine, one heading each."""
    machines = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    measured = [made for made in machines if isinstance(made, dict) and {"machine", "rows"} <= set(made)]
    return "\n".join(f"### {made['machine']}\n\n{markdown(made['machine'], made['rows'])}" for made in measured)


HEAD = ("", "plain loop", "diffusers' script", "Chrysalis", "to plain", "to script", "target", "")


def cells(record: dict) -> tuple[str, ...]:
    """The cells of a row, from a Row's record."""
    if record["failed"]:
        return (record["what"], *[""] * (len(HEAD) - 2), f"no figure: {record['failed']}")
    medians = (record.get(f"{side}_median") for side in SIDES)
    sides = ("" if median is None else f"{short(median)} {record['unit']}" for median in medians)
    ratios = ("" if record.get(name) is None else f"{record[name]:.2f}" for name in ("ratio", "script_ratio"))
    verdict = {True: "reached", False: "missed", None: ""}[record["reached"]]
    return (record["what"], *sides, *ratios, _target(record), verdict)


def _target(record: dict) -> str:
    """'at least 1.5; 1 to script'"""
    unit = "" if record["plain"] else f" {record['unit']}"
    own = [] if record["target"] is None else [f"{short(record['target'])}{unit}"]
    script = record.get("script_target")
    limits = own + ([] if script is None else [f"{short(script)} to script"])
    return f"{'at least' if record['at_least'] else 'at most'} {'; '.join(limits)}" if limits else ""


def short(figure: float) -> str:
    """'0.332', '43.7', '10,700'"""
    return f"{float(f'{figure:.3g}'):,.0f}" if figure >= 1000 else f"{figure:.3g}"


def markdown(machine: str, records: Sequence[dict]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|---|---:|---:|---:|---:|---:|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(record))} |" for record in records]
    notes = [f"- *{r['what']}*: {text}" for r in records if (text := _text(r["notes"]))]
    whens = sorted({f"{m['commit']}, torch {m['torch']}, {m['date']}" for r in records if (m := r.get("measured"))})
    parts = [
        f"Medians on {machine} ({'; '.join(whens)}). {summary(records)}",
        "\n".join(lines),
        *(["\n".join(notes)] if notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def summary(records: Sequence[dict]) -> str:
    """'Targets reached: 9 of 10; missed: ...'"""
    judged = [record for record in records if record["reached"] is not None]
    missed = [record["what"] for record in judged if not record["reached"]]
    return f"Targets reached: {len(judged) - len(missed)} of {len(judged)}" + (
        f"; missed: {', '.join(missed)}." if missed else "."
    )


def _text(notes: dict) -> str:
    """Format the notes that are single values; lists stay in the JSON."""

    def shown(value) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    single = {k: v for k, v in notes.items() if not isinstance(v, list | dict) and v is not None}
    return "; ".join(f"{name}: {shown(value)}" for name, value in single.items())


def table(machine: str, rows: Sequence[Row]) -> Table:
    """A table for the terminal that fits 80 columns: units follow the names, missed targets are yellow."""
    made = Table(title=f"medians on {machine}", title_justify="left", title_style="", box=None, pad_edge=False)
    made.add_column("", min_width=24)
    for column in ("plain", "script", "ours", "/ plain", "/ script"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("target")
    for row in rows:
        record = row.record()
        name, *figures, target, verdict = cells(record)
        unit = f", {record['unit']}" if record["unit"] else ""
        target = target.removesuffix(f" {record['unit']}").replace("at least ", "≥ ").replace("at most ", "≤ ")
        plain = [figure.removesuffix(f" {record['unit']}") for figure in figures]
        missed = row.reached is False or record["failed"]
        made.add_row(
            name + unit, *plain, f"{target} {verdict}".strip() if missed else target, style="yellow" * bool(missed)
        )
    return made
