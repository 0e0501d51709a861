"""One HTML file that needs nothing else: curves, figures with intervals, images, settings, of one run or several."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Column, Table

from chrysalis.evaluation import plots, validation_record
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.plotting import COLOURS
from chrysalis.system.public import public
from chrysalis.system.terminal import console

NEEDED = {
    "results": ("command", "best_step", "steps", "val_loss_minus_base", "val_loss_minus_base_error", "hardware"),
    "history": ("validation", "timesteps", "training", "evaluation"),
}
SHEETS = 4  # sample sheets shown of a run: the first, the last, and some between


@dataclass(frozen=True)
class Subject:
    """A run, or a folder that task=evaluate made. images: (what it shows, file)."""

    name: str
    results: dict
    history: dict
    evaluation: dict
    settings: str = ""
    command: str = ""
    images: list[tuple[str, Path]] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, str]:
        """What there is to be read, in words: {"KD": "0.0123 [0.0101, 0.0150]", ...}."""
        r, e, said = self.results, self.evaluation, {}
        if self.validation:
            said["validation loss"] = f"{self.validation['loss']:.5f} ({self.validation['prediction']})"
        if "val_loss" in r:
            change, error = r["val_loss_minus_base"], r["val_loss_minus_base_error"]
            said["minus the base model's"] = f"{change:+.5f}" + ("" if error is None else f" ± {error:.5f}")
            said["best step"] = f"{r['best_step']:,} of {r['steps']:,}"
        if "kd" in e:
            said["KD"] = f"{e['kd']:.4f} [{e['kd_low']:.4f}, {e['kd_high']:.4f}]"
        if "fd" in e:
            said["FD"] = f"{e['fd']:.3f}"
        said |= {name: f"{e[name]:.2f}" for name in ("precision", "recall", "density", "coverage") if name in e}
        if "copies_share" in e:
            share = f"{e['copies_share']:.0%} [{e['copies_share_low']:.0%}, {e['copies_share_high']:.0%}]"
            said["near copies"] = f"{share}, by chance {e.get('copies_expected', 0.05):.0%}"
            said["chance of so many"] = f"{e['copies_chance']:.2g}"
        if e:
            at = f" at step {e['step']:,}" if "step" in e else ""
            said["of images"] = f"{e['n_samples']} samples{at}, {e['n_real']} {e['against']}"
            said["seen by"] = e["features"]
        if "seconds" in r:
            said["time"] = f"{r['seconds']:.0f} s, {r['hardware']}"
        return said

    @property
    def validation(self) -> dict | None:
        return self.results.get("validation") or self.evaluation.get("validation")

    @property
    def withheld(self) -> list[str]:
        return self.evaluation.get("withheld", [])


def of_run(folder: Path) -> Subject:
    """What a finished run left in its folder."""
    results, history = (_read(folder / f"{name}.json", needed) for name, needed in NEEDED.items())
    sheets = sorted((folder / "samples").glob("step_*.png"))
    chosen = sorted({round(i * (len(sheets) - 1) / (SHEETS - 1)) for i in range(SHEETS)}) if sheets else []
    images = [("before and after, with training images", folder / "before_after.png")]
    images += [(f"samples at step {int(sheets[i].stem[5:]):,}", sheets[i]) for i in chosen]
    settings = (folder / "config.yaml").read_text(encoding="utf-8") if (folder / "config.yaml").is_file() else ""
    there = [(what, file) for what, file in images if file.is_file()]
    evaluation = results.get("evaluation") or {}
    if "step" in evaluation:
        near = folder / "nearest" / f"step_{evaluation['step']:06d}.png"
        there += [(f"nearest training images, step {evaluation['step']:,}", near)] if near.is_file() else []
    name, command = public(shown(folder)), public(results["command"])
    return Subject(name, results, history, evaluation, public(settings), command, there)


def evaluated(folder: Path, evaluation: dict) -> Subject:
    """A folder of drawings with what task=evaluate found."""
    record = _read(folder / "settings.json", ("settings", "command"))
    images = [("samples", folder / "grid.png"), ("nearest training images", folder / "nearest.png")]
    there = [(what, file) for what, file in images if file.is_file()]
    settings = json.dumps(record["settings"], indent=2)
    return Subject(public(shown(folder)), {}, {}, evaluation, public(settings), public(record["command"]), there)


def found(folder: Path) -> Subject:
    """Either kind; raises UserError for a folder that is neither."""
    if (folder / "results.json").is_file() and (folder / "history.json").is_file():
        return of_run(folder)
    if (folder / "evaluation.json").is_file():
        return evaluated(folder, _read(folder / "evaluation.json", ("n_samples", "n_real", "against", "features")))
    raise UserError(
        f"{shown(folder)} holds neither a finished run nor what task=evaluate makes: give runs/NAME, or evaluate a "
        "model with sample.py task=evaluate first."
    )


def table(subjects: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """Rows of (figure, its value of each); of several also how their validation losses differ from the first one's."""
    cells, first = [s.figures for s in subjects], subjects[0].validation
    names = dict.fromkeys(name for own in cells for name in own)
    rows = [(name, [own.get(name, "") for own in cells]) for name in names]
    if len(subjects) > 1 and first:
        changes = [str(validation_record.difference(s.validation, first)) if s.validation else "" for s in subjects[1:]]
        rows.insert(1, ("minus the first's", ["", *changes]))  # the loss itself is the first row
    return rows


def write(path: Path, subjects: Sequence[Subject]) -> None:
    """The page at `path`, complete or absent."""
    environment = Environment(loader=PackageLoader("chrysalis.evaluation", "."), autoescape=select_autoescape(["j2"]))
    environment.filters["data"] = _embedded
    page = environment.get_template("report.html.j2")
    histories = {s.name: s.history for s in subjects if s.history}
    best = {s.name: s.results["best_step"] for s in subjects if s.history}
    colours = {s.name: colour for s, colour in zip(subjects, COLOURS * len(subjects), strict=False)}
    figures = plots.report_figures(histories, best, colours) if histories else []
    if all(s.withheld == subjects[0].withheld for s in subjects):
        notes = subjects[0].withheld
    else:
        notes = [f"{s.name}: {why}" for s in subjects for why in s.withheld]
    if other := apart(subjects):
        notes = [other, *notes]
    shown_there = {"rows": table(subjects), "figures": figures, "colours": colours, "notes": notes}
    write_text(path, page.render(subjects=subjects, **shown_there))


def show(subjects: Sequence[Subject]) -> None:
    """The table, on screen."""
    shown_table = Table(Column("", style="cyan"), *(Column(s.name, overflow="fold") for s in subjects))
    for name, cells in table(subjects):
        shown_table.add_row(name, *cells)
    console.print(shown_table)
    if other := apart(subjects):
        console.print(other, style="yellow", markup=False)


def apart(subjects: Sequence[Subject]) -> str | None:
    """A sentence, where distances stand side by side that were not measured alike."""
    known = [s.evaluation for s in subjects if "kd" in s.evaluation]
    for key, what in (("network", "networks"), ("against", "real images"), ("n_real", "numbers of real images")):
        if len({e[key] for e in known if key in e}) > 1:
            return f"KD, FD, precision, recall, density and coverage are of other {what}: they do not compare."
    return None


def _read(file: Path, needed: Sequence[str]) -> dict:
    otherwise = "is missing, damaged, or from another version: the run cannot be reported."
    found = read_mapping(file, otherwise)
    if any(name not in found for name in needed):
        raise UserError(f"{shown(file)} {otherwise}")
    return found


def _embedded(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
