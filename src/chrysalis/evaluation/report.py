"""report.html: one self-contained file with the curves, metrics, images and settings of one run or several."""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Column, Table

from chrysalis.evaluation import plots
from chrysalis.evaluation.distances import KD_FORMAT
from chrysalis.evaluation.validation_loss import compare_records
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.plotting import COLORS
from chrysalis.system.records import public
from chrysalis.system.terminal import console, warn

MAX_GRIDS = 4  # grids of samples that a page shows of one run: the first, the last, and some between


TRAINING_ROWS = {  # title: format; a row whose values are missing is left out
    "validation loss": "{loss:.5f} (predicting {prediction})",
    "difference from the base model": "{val_loss_minus_base:+.5f}{plus_minus}",
    "best step": "{best_step:,} of {steps:,}",
    "duration": "{seconds:.0f} s, {hardware}",
}
SAMPLE_ROWS = {
    "KD": KD_FORMAT,
    "FD": "{fd:.3f}",
    "precision": "{precision:.2f}",
    "recall": "{recall:.2f}",
    "density": "{density:.2f}",
    "coverage": "{coverage:.2f}",
    "recognized as one of the labels": "{recognized:.0%}, balance of the labels {label_balance:.2f}",
    "contrast, 1 in real images": "{contrast:.2f}",
    "color cast, in 8-bit steps": "{color_cast:.1f}",
    "sharpness, 1 in real images": "fine {sharpness_fine:.2f}, medium {sharpness_medium:.2f}, "
    "coarse {sharpness_coarse:.2f}",
    "near-duplicates of training images": "{near_duplicate_fraction} (95 % CI {near_duplicate_fraction_low} to "
    "{near_duplicate_fraction_high}), {near_duplicate_fraction_by_chance} by chance",
    "p-value of the near-duplicates": "{near_duplicate_p_value:.2g}",
    "measured on": "{n_samples} samples{at_step} vs {n_real} {compared_with}",
    "features": "{features}",
}


@dataclass(frozen=True)
class Subject:
    """A run, or a folder that task=evaluate wrote.

    validation: the record of its validation loss, if it has one. settings: YAML or JSON. images: (caption, file).
    """

    name: str
    results: dict
    history: dict
    evaluation: dict
    validation: dict | None
    settings: str
    command: str
    images: list[tuple[str, Path]]

    @property
    def metrics(self) -> dict[str, str]:
        """Every metric as text, by its row's title: {"KD": "0.28 (95 % CI 0.21 to 0.35)", ...}."""
        error, step = self.results.get("val_loss_minus_base_error"), self.evaluation.get("step")
        training = {**self.results, **(self.validation or {}), "plus_minus": "" if error is None else f" ± {error:.5f}"}
        samples = {**self.evaluation, "at_step": "" if step is None else f" at step {step:,}"}
        samples |= {k: f"{x * 100:.0f} %" for k, x in samples.items() if k.startswith("near_duplicate_fraction")}
        metrics = {}
        for rows, values in ((TRAINING_ROWS, training), (SAMPLE_ROWS, samples)):
            for title, text in rows.items():
                with suppress(KeyError):
                    metrics[title] = text.format(**values)
        return metrics


def load(folder: Path) -> Subject:
    """Read a finished run, or a folder that task=evaluate wrote. Raises UserError for any other."""
    results, history = {}, {}
    if (folder / "results.json").is_file() and (folder / "history.json").is_file():
        results = _read(folder / "results.json", "command", "best_step")
        history = _read(folder / "history.json", "validation", "timesteps", "training", "evaluation")
        evaluation, command, config = results.get("evaluation") or {}, results["command"], folder / "config.yaml"
        settings = config.read_text(encoding="utf-8") if config.is_file() else ""
        images = _images_of_run(folder, evaluation)
    elif (folder / "evaluation.json").is_file():
        evaluation = _read(folder / "evaluation.json", "features_digest", "compared_with", "n_real")
        record = _read(folder / "settings.json", "settings", "command")
        settings, command = json.dumps(record["settings"], indent=2), record["command"]
        images = [("samples", folder / "grid.png"), ("samples nearest to training images", folder / "nearest.png")]
    else:
        raise UserError(
            f"{shown(folder)} is neither a finished run nor an evaluated model: give runs/NAME, or evaluate a model "
            "with sample.py task=evaluate first."
        )
    images = [(caption, file) for caption, file in images if file.is_file()]
    validation, texts = results.get("validation") or evaluation.get("validation"), (public(settings), public(command))
    return Subject(public(shown(folder)), results, history, evaluation, validation, *texts, images)


def _images_of_run(folder: Path, evaluation: dict) -> list[tuple[str, Path]]:
    grids = sorted((folder / "samples").glob("step_*.png"))
    chosen = sorted({round(i * (len(grids) - 1) / (MAX_GRIDS - 1)) for i in range(MAX_GRIDS)}) if grids else []
    images = [("training images, samples before and after", folder / "before_after.png")]
    images += [(f"samples at step {int(grids[i].stem[5:]):,}", grids[i]) for i in chosen]
    if "step" in evaluation:
        caption = f"samples nearest to training images, step {evaluation['step']:,}"
        images.append((caption, folder / "nearest" / f"step_{evaluation['step']:06d}.png"))
    return images


def comparison(subjects: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """Rows of (title, one cell for each subject), with each validation loss's difference from the first one's."""
    cells, first = [s.metrics for s in subjects], subjects[0].validation
    titles = dict.fromkeys(title for metrics in cells for title in metrics)
    rows = [(title, [metrics.get(title, "") for metrics in cells]) for title in titles]
    if len(subjects) > 1 and first:
        changes = [str(compare_records(s.validation, first)) if s.validation else "" for s in subjects[1:]]
        rows.insert(1, (f"difference from {subjects[0].name}", ["", *changes]))  # row 0 is the loss itself
    return rows


def write(path: Path, subjects: Sequence[Subject]) -> None:
    """Write the page, complete or absent."""
    environment = Environment(loader=PackageLoader("chrysalis.evaluation", "."), autoescape=select_autoescape(["j2"]))
    environment.filters["data"] = _data_url
    histories = {s.name: s.history for s in subjects if s.history}
    best = {s.name: s.results["best_step"] for s in subjects if s.history}
    colors = {s.name: color for s, color in zip(subjects, COLORS * len(subjects), strict=False)}
    notes, *others = (s.evaluation.get("notes", []) for s in subjects)
    if any(other != notes for other in others):
        notes = [f"{s.name}: {note}" for s in subjects for note in s.evaluation.get("notes", [])]
    page = environment.get_template("report.html.j2").render(
        subjects=subjects,
        rows=comparison(subjects),
        figures=plots.report_figures(histories, best, colors) if histories else [],
        colors=colors,
        notes=[*_comparability_warnings(subjects), *notes],
    )
    write_text(path, page)


def print_table(subjects: Sequence[Subject]) -> None:
    table = Table(Column("", style="cyan"), *(Column(s.name, overflow="fold") for s in subjects))
    for title, cells in comparison(subjects):
        table.add_row(title, *cells)
    console.print(table)
    for warning in _comparability_warnings(subjects):
        warn(warning)


def _comparability_warnings(subjects: Sequence[Subject]) -> list[str]:
    """A sentence if the distances were not measured with the same features and real images."""
    evaluations = [s.evaluation for s in subjects if "kd" in s.evaluation]
    names = {"features_digest": "feature networks", "compared_with": "real images", "n_real": "numbers of real images"}
    different = [name for key, name in names.items() if len({e[key] for e in evaluations}) > 1]
    what = "KD, FD, precision, recall, density and coverage are not comparable: they come from different"
    return [f"{what} {' and '.join(different)}. Evaluate again with the same features and data."] if different else []


def _read(file: Path, *required: str) -> dict:
    problem = "is missing or damaged, so there is nothing to report: repeat the command that wrote it."
    content = read_mapping(file, problem)
    if not content.keys() >= set(required):
        raise UserError(f"{shown(file)} {problem}")
    return content


def _data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
