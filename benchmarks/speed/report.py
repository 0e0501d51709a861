"""What was measured: rows with both sides' raw runs, as JSON that can be added to and as a table for the README."""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from chrysalis.files import write_text


@dataclass
class Row:
    """One comparison. plain, ours: the raw runs of each side; plain is empty where the target is for ours alone.

    target: of the ratio ours / plain, or of ours; at_least: whether more is better. notes: whatever explains it.
    failed: why there is no figure.
    """

    name: str
    what: str
    unit: str
    target: float
    at_least: bool = True
    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    failed: str | None = None

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ours) / statistics.median(self.plain) if self.plain and self.ours else None

    @property
    def reached(self) -> bool:
        if not self.ours or self.failed:
            return False
        figure = statistics.median(self.ours) if self.ratio is None else self.ratio
        return figure >= self.target if self.at_least else figure <= self.target

    def record(self) -> dict:
        medians = {
            f"{side}_median": statistics.median(runs) if (runs := getattr(self, side)) else None
            for side in ("plain", "ours")
        }
        return {**asdict(self), **medians, "ratio": self.ratio, "reached": self.reached}


def slug(hardware: str) -> str:
    """'Intel(R) Xeon(R) Processor (2 threads)' -> 'intel-xeon-2-threads'."""
    words = re.sub(r"\((r|tm)\)|\b(processor|cpu)\b|@.*?hz", " ", hardware.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def without_folders(text: str) -> str:
    """'--data /home/me/pictures' -> '--data .../pictures': results are published, and name nobody's folders."""
    return re.sub(r"(?<![\w.])(\.\.|~)?/(\S*/)?", ".../", text)


def write(folder: Path, machine: str, about: dict, rows: Sequence[Row]) -> tuple[Path, Path]:
    """(JSON, markdown) of these rows and those of other names that were measured before.

    about: of this measurement (commit, date, command ...), kept with each of its rows.
    """
    path = folder / f"{slug(machine)}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    fresh = [{**row.record(), "measured": about} for row in rows]
    kept = {record["name"]: record for record in [*before, *fresh]}
    write_text(path, json.dumps({"machine": machine, "rows": list(kept.values())}, indent=2) + "\n")
    page = path.with_suffix(".md")
    write_text(page, markdown(machine, list(kept.values())))
    return path, page


HEAD = ("", "plain loop", "Chrysalis", "ratio", "target", "")


def cells(record: dict) -> tuple[str, ...]:
    """A row of the table, of a Row's record."""
    if record["failed"]:
        return (record["what"], "", "", "", "", f"no figure: {record['failed']}")
    medians = (record[f"{side}_median"] for side in ("plain", "ours"))
    sides = ("" if median is None else f"{short(median)} {record['unit']}" for median in medians)
    ratio = "" if record["ratio"] is None else f"{record['ratio']:.2f}"
    return (record["what"], *sides, ratio, _target(record), "reached" if record["reached"] else "missed")


def _target(record: dict) -> str:
    unit = "" if record["plain"] else f" {record['unit']}"
    return f"{'at least' if record['at_least'] else 'at most'} {short(record['target'])}{unit}"


def short(figure: float) -> str:
    """'0.332', '43.7', '10,700'"""
    return f"{float(f'{figure:.3g}'):,.0f}" if figure >= 1000 else f"{figure:.3g}"


def markdown(machine: str, records: Sequence[dict]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|---|---:|---:|---:|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(record))} |" for record in records]
    notes = [f"- *{r['what']}*: {told}" for r in records if (told := _told(r["notes"]))]
    whens = sorted({f"{m['commit']}, torch {m['torch']}, {m['date']}" for r in records if (m := r.get("measured"))})
    parts = [f"Medians on {machine} ({'; '.join(whens)}).", "\n".join(lines), *(["\n".join(notes)] if notes else [])]
    return "\n\n".join(parts) + "\n"


def _told(notes: dict) -> str:
    """The notes that are single values; lists stay in the JSON."""

    def shown(value) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    single = {k: v for k, v in notes.items() if not isinstance(v, list | dict) and v is not None}
    return "; ".join(f"{name}: {shown(value)}" for name, value in single.items())


def table(machine: str, rows: Sequence[Row]) -> Table:
    """For the terminal."""
    made = Table(title=f"medians on {machine}", title_justify="left", title_style="", box=None, pad_edge=False)
    for i, column in enumerate(HEAD):
        made.add_column(column, justify="right" if i in (1, 2, 3) else "left")
    for row in rows:
        made.add_row(*cells(row.record()), style=None if row.reached else "yellow")
    return made
