"""A sweep: a folder of job folders, and a table of all jobs at its end, on screen and as summary.csv."""

import csv
import json
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Column, Table

from chrysalis.command.arguments import is_sweep, parsed
from chrysalis.system.files import read_mapping, remove_if_empty, shown, write_text, written
from chrysalis.system.terminal import console, say

COLUMNS = ("job", "overrides", "state", "final val_loss", "best val_loss", "best step", "seconds")
RECORD = "job.json"  # in each job's folder: its overrides, and its exit code once it has ended
STOPPED = {128 + s for s in (signal.SIGINT, signal.SIGTERM)} | {-signal.SIGINT, -signal.SIGTERM}

codes: list[int] = []  # exit codes of this command's jobs that failed
ended_jobs: set[Path] = set()  # folders of this command's jobs that ended in this process
new_folders: set[Path] = set()  # folder of this command's sweep, unless it held one before


class Job:
    """One job of a sweep: its folder and what it left there."""

    def __init__(self, folder: Path):
        record, results = _loaded(folder / RECORD), folder / "results.json"
        self.folder = folder
        self.overrides: list[str] = record.get("overrides", [])
        self.exit_code: int | None = record.get("exit_code")  # None: it has not ended, or ended unobserved
        self.results = _loaded(results) if results.is_file() else None

    @property
    def number(self) -> int:
        """Its place in the sweep, with which the folder's name begins."""
        return int(self.folder.name.split("_")[0])

    @property
    def finished(self) -> bool:
        """Whether it ended by itself; an interrupted job has results too, of its steps so far."""
        return self.results is not None and self.exit_code == 0

    @property
    def state(self) -> str:
        if self.finished:
            return "done"
        if self.exit_code is None:
            return "not ended"
        if self.exit_code in STOPPED:
            return "stopped"
        if self.exit_code < 0:
            return f"failed: killed by {signal.Signals(-self.exit_code).name}"
        return f"failed: exit code {self.exit_code}"

    def row(self) -> list[str]:  # for COLUMNS
        results = self.results or {}
        digits = {"final_val_loss": ".5f", "val_loss": ".5f", "best_step": "d", "seconds": ".0f"}
        figures = [format(results[name], form) if results else "" for name, form in digits.items()]
        return [self.folder.name, " ".join(self.overrides), self.state, *figures]


def _loaded(file: Path) -> dict:
    return read_mapping(file, "is damaged: move its folder out of the sweep, and the job runs again.")


def jobs(folder: Path) -> list[Job]:
    """The jobs in a sweep's folder, in the order of their numbers."""
    found = (record.parent for record in folder.glob(f"*/{RECORD}"))
    return sorted((Job(f) for f in found if f.name.split("_")[0].isdecimal()), key=lambda j: j.number)


def identity(overrides: Iterable[str]) -> set[str]:
    """The overrides that distinguish a job from others, in any order."""
    return {o for o in overrides if o.split("=")[0] not in ("name", "resume", "debug")}


def with_short_job_names(arguments: list[str]) -> list[str]:
    """With -m, add the setting with which Hydra leaves overrides that all jobs share out of their folders' names."""
    if not is_sweep(arguments):
        return arguments
    typed = parsed([a for a in arguments if "=" in a and not a.startswith("-")])
    shared = sorted({o.key_or_group for o in typed if not o.is_sweep_override()})
    return [*arguments, f"hydra.job.config.override_dirname.exclude_keys={json.dumps(shared)}"]


def delete_unstarted() -> None:
    """After a mistake in the sweep's own command, delete what Hydra wrote before the first job."""
    for folder in new_folders:
        if not jobs(folder):
            with suppress(NotADirectoryError):
                (folder / "multirun.yaml").unlink(missing_ok=True)
            remove_if_empty(folder)


class Summary(Callback):
    """Hydra's callback that records each job in its folder, and prints the table of all jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        for earlier in (codes, ended_jobs, new_folders):
            earlier.clear()
        new_folders.update(() if (folder / "multirun.yaml").exists() else (folder,))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            overrides = list(config.hydra.overrides.task)
            _write(Path(config.hydra.runtime.output_dir), overrides, None)
            say(f"\njob {config.hydra.job.num}: {' '.join(overrides)}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.runtime.output_dir)
            code = job_return._return_value  # the property raises what another launcher's job raised
            _write(folder, list(job_return.overrides or ()), code if isinstance(code, int) else 1)
            ended_jobs.add(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        there = jobs(folder)
        there += [Job(f) for f in sorted(ended_jobs - {j.folder.absolute() for j in there})]
        mine = [j for j in there if not ended_jobs or j.folder.absolute() in ended_jobs]
        codes.extend(1 if j.exit_code is None else j.exit_code for j in mine if not j.finished)
        with written(folder / "summary.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([COLUMNS, *(j.row() for j in there)])
        console.print(_table(there, shown(folder)))
        if figure := _figure(folder, there):
            say(f"figure: {shown(figure)}")
        say(f"also in {shown(folder / 'summary.csv')}; curves: tensorboard --logdir {shown(folder)}")


def _write(folder: Path, overrides: list[str], exit_code: int | None) -> None:
    write_text(folder / RECORD, json.dumps({"overrides": overrides, "exit_code": exit_code}, indent=2) + "\n")


def _own(there: list[Job]) -> list[list[str]]:
    """Each job's overrides, without those that all jobs share."""
    common = set.intersection(*(set(j.overrides) for j in there)) if len(there) > 1 else set()
    return [[o for o in j.overrides if o not in common] for j in there]


def _figure(folder: Path, there: list[Job]) -> Path | None:
    """Write figure.png, validation loss and KD against steps; None if fewer than two settings can be compared.

    Jobs that differ in their seed alone are one band.
    """
    groups: dict[str, list[dict]] = {}
    for j, overrides in zip(there, _own(there), strict=True):
        if j.finished and (j.folder / "history.json").is_file():
            name = ", ".join(o for o in overrides if not o.startswith("seed="))
            groups.setdefault(name, []).append(_loaded(j.folder / "history.json"))
    if len(groups) < 2:
        return None
    from chrysalis.evaluation.plots import plot_sweep

    plot_sweep(folder / "figure.png", groups)
    return folder / "figure.png"


def _table(there: list[Job], title: str) -> Table:
    """The table for the screen: job numbers, overrides that not all jobs share, and states unless all are done."""
    all_done = all(j.finished for j in there)
    table = Table(*(Column(name, overflow="fold") for name in COLUMNS if name != "state" or not all_done), title=title)
    for j, overrides in zip(there, _own(there), strict=True):
        name, _, state, *figures = j.row()
        cells = [name.split("_")[0], "\n".join(overrides), *([] if all_done else [state]), *figures]
        table.add_row(*map(escape, cells))
    return table
