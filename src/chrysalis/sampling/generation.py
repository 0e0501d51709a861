"""Images into a folder: complete PNG files that say how to draw them again, whatever stops or shares the work."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from PIL import Image

from chrysalis.conditions.request import Request
from chrysalis.data import pixels
from chrysalis.sampling.grids import legible, read
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.guidance.plots import curves
from chrysalis.sampling.image_writer import ImageWriter
from chrysalis.sampling.loop import Step, trajectory
from chrysalis.sampling.schedulers import Timetable
from chrysalis.sampling.tasks import Animation, Canvas, Generate, SampleSpec
from chrysalis.sampling.trajectory import Trajectory
from chrysalis.system.compiling import compiled_only_if, why_not_compiled
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.files import all_public, shown, write_text, written
from chrysalis.system.terminal import Stage, is_main_process, stage


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's: every `of`-th batch, from the `rank`-th.

    gather: waits for all processes and gives what each has handed in.
    """

    rank: int = 0
    of: int = 1
    gather: Callable[[str | None], list[str | None]] = lambda mine: [mine]


def sample(
    denoiser,
    scheduler,
    steps: int,
    generators: list[torch.Generator],
    size: tuple[int, int],
    cond: Mapping | None = None,
    advance: Callable[[float], None] = lambda n: None,
) -> torch.Tensor:
    """The last x of a trajectory from noise: float32 [B, C, H, W], about [-1, 1].

    advance: is told, after each evaluation of the UNet, its part of the B * steps that all of them are.
    """
    timetable = Timetable(scheduler, steps, denoiser.noise.alphas.device)
    x = Canvas(denoiser, denoiser, timetable, size).noise(generators)
    part = len(generators) * steps / timetable.evaluations([(0, len(timetable))])
    for step in trajectory(denoiser, timetable, x, generators, cond=cond):
        last = step.x
        advance(part)
    return last


# what may change when a stopped drawing goes on, or when what is drawn is looked at once more
HOW = (
    "batch_size",
    "compile",
    "trajectory_columns",
    "trajectory",
    "animation",
    "task.features",
    "task.data",
    "task.n_nearest",
)


def refuse_other_images(out: Path, record: dict) -> None:
    """The folder may be new, empty, or hold these very images, some or all; nothing else is written over."""
    if not is_main_process():
        return
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        drawn = json.loads((out / "settings.json").read_text(encoding="utf-8"))
        was, now = (_compared(r) for r in (all_public(drawn), json.loads(json.dumps(record))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"out={shown(out)} already holds other files: choose another folder.") from None
    other = [key for key in {**was, **now} if was.get(key) != now.get(key) and not _is_how(key)]
    if other:
        key = other[0]
        if key in drawn["inputs"] and key not in record["inputs"]:
            raise UserError(
                f"{key} is not there, and out={shown(out)} was made with it: bring it back, or choose another folder."
            )
        if key in drawn["inputs"] or key in record["inputs"]:
            raise UserError(f"out={shown(out)} holds images from before {key} changed: choose another folder.")
        raise UserError(f"out={shown(out)} holds images with {key}={was.get(key)}: choose another folder.")


def _is_how(key: str) -> bool:
    return any(key == how or key.startswith(f"{how}.") for how in HOW)


def _compared(record: dict) -> dict:
    """What the images of a folder share. Records from before there was a choice were all drawn in float32."""
    precision = record.get("precision", "32-true")
    return {**_flat(record["settings"]), "trainer.precision": precision, **record["inputs"]}


def _flat(node: dict, prefix: str = "") -> dict:
    parts = [
        _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        for key, value in node.items()
    ]
    return {key: value for part in parts for key, value in part.items()}


def require_counts(settings: dict) -> None:
    """Refuse numbers that no images can be drawn with, by their keys."""
    for key in ("n", "steps", "batch_size", "trajectory_columns"):
        require_whole(key, settings[key])
    require_whole("guidance.recurrence", settings["guidance"]["recurrence"])
    if not isinstance(settings["trajectory"], bool):
        raise UserError(f"trajectory={settings['trajectory']} must be true or false.")
    require_whole("seed", settings["seed"], least=0)
    if settings["seed"] >= 2**62:
        raise UserError(f"seed={settings['seed']} is too large: choose one below 2^62.")


def batches(specs: Sequence[SampleSpec], batch_size: int) -> list[list[SampleSpec]]:
    """In order, of one mix of weights each; the same whoever draws them, since a batch's company can round a bit."""
    return [
        same[k : k + batch_size]
        for _, group in groupby(specs, key=lambda p: p.mix)
        for same in [list(group)]
        for k in range(0, len(same), batch_size)
    ]


def asked_for(task: Generate, asked: Request | None, settings: dict) -> list[SampleSpec]:
    """The task's images, all of them once for every row of conditions that is asked for."""
    specs = task.specs(settings["seed"], settings["n"])
    if asked is None or asked.rows == 1:
        return specs
    if task.one_condition:
        raise UserError(
            f"task={type(task).__name__.lower()} takes one condition at a time, not a list of {asked.rows}."
        )
    names = [asked.file_name(row) for row in range(asked.rows)]
    if len({name.casefold() for name in names}) < len(names) or not all(0 < len(name) <= 30 for name in names):
        names = [f"row{row:03d}" for row in range(asked.rows)]
    return [replace(p, name=f"{name}_{p.name}", row=row) for row, name in enumerate(names) for p in specs]


def draw(
    out: Path,
    canvas: Canvas,
    task: Generate,
    record: dict,
    batch_size: int = 16,
    animation: Animation | None = None,
    way: Trajectory | None = None,
    share: Share | None = None,
) -> list[str]:
    """Write the task's images, what it makes of them, and settings.json into `out`.

    record: {"settings", "command", "overrides", "only", ...}, kept with every image; settings gives seed and n.
    way: draws trajectory.png and an animation of the first batch. Files that are there already are not drawn again.
    Returns what was written, in words.
    """
    torch.backends.cudnn.deterministic = True  # an image can be drawn again from its own file
    task.prepare(canvas)
    animation, share = animation or Animation(), share or Share()
    settings, only = record["settings"], record.get("only")
    specs = asked_for(task, canvas.asked, settings)
    work = batches(specs, batch_size)
    full = max(map(len, work))
    if only is not None:
        work = [batch for batch in work if only in (p.name for p in batch)]
        if not work:
            raise UserError(f"only={only} is not one of these images: {specs[0].name} to {specs[-1].name}.")
    if way and not _same_way(out, settings):
        way.forget(out)
    left = [batch for batch in work if not _done(batch, out, only, way if batch is work[0] else None)]
    mine = left[share.rank :: share.of]
    if share.rank == 0:
        for partial in out.glob(".*.partial"):  # of a killed process
            partial.unlink(missing_ok=True)
    share.gather(None)  # all have looked what is left before anyone writes
    if share.rank == 0:
        _write_record(out, record)
    total = canvas.timetable.evaluations(task.legs(canvas)) * sum(map(len, mine))
    failure: Exception | None = None
    try:
        with stage("sampling", total) as at, ImageWriter() as writing:
            for batch in mine:
                with compiled_only_if(len(batch) == full):
                    x, told = _draw_batch(canvas, task, batch, way if batch is work[0] else None, at)
                _write_batch(out, writing, record, batch, x, told)
    except Exception as error:
        failure = why_not_compiled(error) or error
    mistakes = [told for told in share.gather(failure and (str(failure) or type(failure).__name__)) if told]
    if mistakes:
        if share.rank == 0 and not any(out.glob("*.png")):
            (out / "settings.json").unlink()
        raise failure if failure and not isinstance(failure, UserError) else UserError(mistakes[0])
    files = [f"{only}.png"] if only else [f"{len(specs)} image{'s' * (len(specs) > 1)}"]
    if share.rank == 0:
        text = {"command": record["command"]}
        files += way.finish(out, text) if way else []
        if only is None:
            rows = [] if task.one_condition else _show_rows(out, canvas, specs, text)
            files += rows or task.finish(out, specs, animation, text)
            files += task.conclude(out, specs)
            files += _tell_guidance(out, specs[:64])
        _write_record(out, record | ({"result": task.notes} if task.notes else {}))
    return files


def _same_way(out: Path, settings: dict) -> bool:
    """Whether a trajectory that lies there was drawn as it is asked for now."""
    try:
        was = json.loads((out / "settings.json").read_text(encoding="utf-8"))["settings"]
    except OSError:
        return True
    now = json.loads(json.dumps(settings))
    return all(was[key] == now[key] for key in ("trajectory_columns", "animation"))


def _write_record(out: Path, record: dict) -> None:
    write_text(out / "settings.json", json.dumps(record, indent=2) + "\n")


def _done(batch: list[SampleSpec], out: Path, only: str | None, way: Trajectory | None) -> bool:
    files = [out / f"{p.name}.png" for p in batch if only in (None, p.name)]
    return all(map(_is_whole, files)) and (way is None or way.is_there(out))


def _is_whole(file: Path) -> bool:
    """Whether a PNG file is there as it was written: each of its parts has a checksum."""
    try:
        with Image.open(file) as image:
            image.verify()
    except (OSError, ValueError, SyntaxError, EOFError):
        return False
    return True


def _draw_batch(
    canvas: Canvas, task: Generate, batch: list[SampleSpec], way: Trajectory | None, at: Stage
) -> tuple[torch.Tensor, list[dict]]:
    """The images, uint8 [B, C, H, W] on the CPU, and what the guidance recorded of them."""
    start = task.start(canvas, batch)
    guided = canvas.denoiser if isinstance(canvas.denoiser, Guided) else None
    if guided:
        guided.begin()
    if way:
        way.begin(start.x, canvas.timetable.evaluations(start.legs))
    cond = canvas.cond(batch)
    finite = Finite(type(canvas.timetable.fresh).__name__, at_once=start.x.device.type == "cpu" or guided is not None)
    for step in trajectory(canvas.denoiser, canvas.timetable, start.x, start.generators, start.legs, start.paste, cond):
        finite.see(step)
        if way:
            way.keep(step)
        at.advance(len(batch))
    finite.require()
    return pixels.to_uint8(step.x).cpu(), guided.records if guided else []


class Finite:
    """Refuses values that are not finite, and names the first step that gave them.

    at_once: at that step; else only when `require` asks, so that a GPU is not waited for at every step. Guidance waits
    for it anyway, and would itself stumble over such values at the step after.
    """

    def __init__(self, scheduler: str, at_once: bool):
        self.scheduler, self.at_once = scheduler, at_once
        self.steps: list[tuple[int, torch.Tensor]] = []
        self.fine: list[torch.Tensor] = []

    def see(self, step: Step) -> None:
        self.steps.append((step.i, step.t))
        self.fine.append(step.x.isfinite().all())
        if self.at_once:
            self.require()

    def require(self) -> None:
        fine = torch.stack(self.fine).tolist() if self.fine else []
        if not all(fine):
            i, t = self.steps[fine.index(False)]
            raise UserError(
                f"step {i} (t={float(t):g}) of scheduler={self.scheduler} gave values that are not finite: "
                "lower the guidance's scale, or choose other steps or another scheduler."
            )
        self.steps, self.fine = [], []


def _write_batch(out: Path, writing: ImageWriter, record: dict, batch: list[SampleSpec], x: torch.Tensor, told) -> None:
    kept = json.dumps({key: value for key, value in record.items() if key != "only"})
    for k, (spec, image) in enumerate(zip(batch, x, strict=True)):
        if record.get("only") not in (None, spec.name) or _is_whole(out / f"{spec.name}.png"):
            continue
        text = {"image": spec.name, "command": record["command"], "record": kept}
        if told:
            text["guidance"] = json.dumps(_own(told, k))
        writing.save(image, out / f"{spec.name}.png", text)


def _show_rows(out: Path, canvas: Canvas, specs: list[SampleSpec], text: dict[str, str]) -> list[str]:
    """grid.png with one row for each condition, or with what was asked for above each image; else nothing."""
    asked = canvas.asked
    spatial = [name for name in ("mask", "image") if asked is not None and name in asked.values]
    if asked is None or (asked.rows == 1 and not spatial):
        return []
    n, rows = len(specs) // asked.rows, []
    if asked.rows == 1:
        lines = [(0, specs[k : k + 8]) for k in range(0, min(n, 64), 8)]
    else:
        lines = [(row, specs[row * n : row * n + min(n, 16)]) for row in range(min(asked.rows, 24))]
    for row, own in lines:
        cond = asked.cond([p.row for p in own], [p.seed for p in own], canvas.size, "cpu") if spatial else {}
        for name in spatial:
            rows.append((name, pixels.to_uint8(cond[name]).expand(-1, 3, -1, -1)))
        rows.append((asked.row_name(row), torch.stack([read(out / f"{p.name}.png") for p in own])))
    pixels.save_png(legible(rows), out / "grid.png", text)
    return ["grid.png"]


def _tell_guidance(out: Path, specs: list[SampleSpec]) -> list[str]:
    """guidance.csv and guidance.png: what each term did to these images, as their files say."""
    rows = []
    for spec in specs:
        with Image.open(out / f"{spec.name}.png") as image:
            for step in json.loads(image.text.get("guidance", "[]")):
                for term, figures in step.items():
                    if isinstance(figures, dict):
                        rows.append([spec.name, step["step"], step["t"], term, *figures.values()])
    if not rows:
        return []
    with written(out / "guidance.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as f:
        names = ["image", "step", "t", "term", "loss", "gradient_norm", "share"]
        csv.writer(f).writerows([names, *rows])
    curves(out / "guidance.png", rows)
    return ["guidance.csv", "guidance.png"]


def _own(records: list[dict], k: int) -> list[dict]:
    """The k-th image's part of what the guidance recorded, to four digits."""

    def short(figures: dict) -> dict:
        return {key: float(f"{values[k]:.4g}") for key, values in figures.items()}

    return [
        {name: short(value) if isinstance(value, dict) else value for name, value in row.items()} for row in records
    ]
