"""report.html: one self-contained file with the curves, metrics, images and settings of one run or several."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Column, Table

from chrysalis.evaluation import plots
from chrysalis.evaluation.distances import KernelDistance
from chrysalis.evaluation.validation_loss import compare_records
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.plotting import COLOURS
from chrysalis.system.records import public
from chrysalis.system.terminal import console

REQUIRED = {
    "results": ("command", "best_step", "steps", "val_loss_minus_base", "val_loss_minus_base_error", "hardware"),
    "history": ("validation", "timesteps", "training", "evaluation"),
    "evaluation": ("n_samples", "n_real", "features_digest", "compared_with", "features"),
    "settings": ("settings", "command"),
}
MAX_GRIDS = 4  # grids of samples shown of a run: the first, the last, and some between


@dataclass(frozen=True)
class Subject:
    """A run, or a folder that task=evaluate wrote. images: (caption, file)."""

    name: str
    results: dict
    history: dict
    evaluation: dict
    settings: str = ""
    command: str = ""
    images: list[tuple[str, Path]] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, str]:
        """Every metric as text, by its row's title: {"KD": "0.28 (95 % CI 0.21 to 0.35)", ...}."""
        return dict([*self._losses(), *self._sample_metrics()])

    def _losses(self) -> Iterator[tuple[str, str]]:
        r = self.results
        if self.validation:
            yield "validation loss", f"{self.validation['loss']:.5f} (predicting {self.validation['prediction']})"
        if "val_loss" in r:
            error = r["val_loss_minus_base_error"]
            standard_error = "" if error is None else f" ± {error:.5f}"
            yield "difference to the base model", f"{r['val_loss_minus_base']:+.5f}{standard_error}"
            yield "best step", f"{r['best_step']:,} of {r['steps']:,}"
        if "seconds" in r:
            yield "duration", f"{r['seconds']:.0f} s, {r['hardware']}"

    def _sample_metrics(self) -> Iterator[tuple[str, str]]:
        e = self.evaluation
        if not e:
            return
        if "kd" in e:
            yield "KD", str(KernelDistance(e["kd"], e["kd_low"], e["kd_high"]))
        if "fd" in e:
            yield "FD", f"{e['fd']:.3f}"
        for name in ("precision", "recall", "density", "coverage"):
            if name in e:
                yield name, f"{e[name]:.2f}"
        if "near_duplicate_fraction" in e:
            names = ("fraction", "fraction_low", "fraction_high", "fraction_by_chance")
            fraction, low, high, chance = (f"{e[f'near_duplicate_{name}'] * 100:.0f} %" for name in names)
            yield "near-duplicates of training images", f"{fraction} (95 % CI {low} to {high}), {chance} by chance"
            yield "p-value of the near-duplicates", f"{e['near_duplicate_p_value']:.2g}"
        at = f" at step {e['step']:,}" if "step" in e else ""
        yield "measured on", f"{e['n_samples']} samples{at} vs {e['n_real']} {e['compared_with']}"
        yield "features", e["features"]

    @property
    def validation(self) -> dict | None:
        return self.results.get("validation") or self.evaluation.get("validation")

    @property
    def notes(self) -> list[str]:
        return self.evaluation.get("notes", [])


def load_run(folder: Path) -> Subject:
    """Read a finished run."""
    results, history = _read(folder, "results"), _read(folder, "history")
    grids = sorted((folder / "samples").glob("step_*.png"))
    chosen = sorted({round(i * (len(grids) - 1) / (MAX_GRIDS - 1)) for i in range(MAX_GRIDS)}) if grids else []
    images = [("training images, samples before and after", folder / "before_after.png")]
    images += [(f"samples at step {int(grids[i].stem[5:]):,}", grids[i]) for i in chosen]
    evaluation = results.get("evaluation") or {}
    if "step" in evaluation:
        caption = f"samples nearest to training images, step {evaluation['step']:,}"
        images.append((caption, folder / "nearest" / f"step_{evaluation['step']:06d}.png"))
    config = folder / "config.yaml"
    settings = config.read_text(encoding="utf-8") if config.is_file() else ""
    return _subject(folder, results, history, evaluation, settings, results["command"], images)


def load_evaluation(folder: Path) -> Subject:
    """Read a folder of samples that task=evaluate wrote."""
    record, evaluation = _read(folder, "settings"), _read(folder, "evaluation")
    images = [("samples", folder / "grid.png"), ("samples nearest to training images", folder / "nearest.png")]
    return _subject(folder, {}, {}, evaluation, json.dumps(record["settings"], indent=2), record["command"], images)


def _subject(
    folder: Path, results: dict, history: dict, evaluation: dict, settings: str, command: str, images: list
) -> Subject:
    there = [(caption, file) for caption, file in images if file.is_file()]
    return Subject(public(shown(folder)), results, history, evaluation, public(settings), public(command), there)


def load(folder: Path) -> Subject:
    """Read either kind of folder. Raises UserError for any other."""
    if (folder / "results.json").is_file() and (folder / "history.json").is_file():
        return load_run(folder)
    if (folder / "evaluation.json").is_file():
        return load_evaluation(folder)
    raise UserError(
        f"{shown(folder)} is neither a finished run nor an evaluated model: give runs/NAME, or evaluate a model with "
        "sample.py task=evaluate first."
    )


def comparison(subjects: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """Rows of (title, one cell for each subject), with the differences of the validation losses to the first one's."""
    cells, first = [s.metrics for s in subjects], subjects[0].validation
    titles = dict.fromkeys(title for metrics in cells for title in metrics)
    rows = [(title, [metrics.get(title, "") for metrics in cells]) for title in titles]
    if len(subjects) > 1 and first:
        changes = [str(compare_records(s.validation, first)) if s.validation else "" for s in subjects[1:]]
        rows.insert(1, (f"difference to {subjects[0].name}", ["", *changes]))  # row 0 is the loss itself
    return rows


def write(path: Path, subjects: Sequence[Subject]) -> None:
    """Write the page, complete or absent."""
    environment = Environment(loader=PackageLoader("chrysalis.evaluation", "."), autoescape=select_autoescape(["j2"]))
    environment.filters["data"] = _data_url
    histories = {s.name: s.history for s in subjects if s.history}
    best = {s.name: s.results["best_step"] for s in subjects if s.history}
    colours = {s.name: colour for s, colour in zip(subjects, COLOURS * len(subjects), strict=False)}
    page = environment.get_template("report.html.j2").render(
        subjects=subjects,
        rows=comparison(subjects),
        figures=plots.report_figures(histories, best, colours) if histories else [],
        colours=colours,
        notes=_notes(subjects),
    )
    write_text(path, page)


def _notes(subjects: Sequence[Subject]) -> list[str]:
    warning = incomparable(subjects)
    if all(s.notes == subjects[0].notes for s in subjects):
        notes = subjects[0].notes
    else:
        notes = [f"{s.name}: {note}" for s in subjects for note in s.notes]
    return [warning, *notes] if warning else notes


def print_table(subjects: Sequence[Subject]) -> None:
    table = Table(Column("", style="cyan"), *(Column(s.name, overflow="fold") for s in subjects))
    for title, cells in comparison(subjects):
        table.add_row(title, *cells)
    console.print(table)
    if warning := incomparable(subjects):
        console.print(warning, style="yellow", markup=False)


def incomparable(subjects: Sequence[Subject]) -> str | None:
    """A warning if the distances were not measured in the same manner."""
    evaluations = [s.evaluation for s in subjects if "kd" in s.evaluation]
    for key, name in (
        ("features_digest", "feature networks"),
        ("compared_with", "real images"),
        ("n_real", "numbers of real images"),
    ):
        if len({e[key] for e in evaluations}) > 1:
            return (
                f"KD, FD, precision, recall, density and coverage are not comparable: they come from different {name}."
            )
    return None


def _read(folder: Path, name: str) -> dict:
    file, problem = folder / f"{name}.json", "is missing or damaged, so there is nothing to report: run it again."
    content = read_mapping(file, problem)
    if any(key not in content for key in REQUIRED[name]):
        raise UserError(f"{shown(file)} {problem}")
    return content


def _data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
