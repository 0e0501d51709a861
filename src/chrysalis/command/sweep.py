"""A sweep: a folder of job folders, and a table of all jobs at its end, on screen and as summary.csv."""

import csv
import json
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Column, Table

from chrysalis.system.files import read_mapping, remove_if_empty, shown, write_text, written
from chrysalis.system.terminal import console, say

COLUMNS = ("job", "overrides", "state", "final loss", "best loss", "best step", "seconds")  # both are validation losses
RECORD = "job.json"  # in each job's folder: its overrides, and its exit code once it has ended
STOPPED = {128 + s for s in (signal.SIGINT, signal.SIGTERM)} | {-signal.SIGINT, -signal.SIGTERM}

codes: list[int] = []  # of this command's jobs that failed
ended: set[Path] = set()  # folders of this command's jobs that ended in this process
_begun: Path | None = None  # folder of a new sweep, until its first job begins


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its folder and what it left there."""

    folder: Path
    overrides: list[str]
    exit_code: int | None  # None: it has not ended, or ended unobserved
    results: dict | None

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
        """Its state in words, for the table."""
        if self.finished:
            return "done"
        if self.exit_code is None:
            return "not ended"
        if self.exit_code in STOPPED:
            return "stopped"
        if self.exit_code < 0:
            return f"failed: killed by {signal.Signals(-self.exit_code).name}"
        return f"failed: exit code {self.exit_code}"

    def row(self) -> tuple[str, ...]:
        """Its cells for COLUMNS."""
        if (r := self.results) is None:
            return (self.folder.name, " ".join(self.overrides), self.state, "", "", "", "")
        losses = (f"{r['final_val_loss']:.5f}", f"{r['val_loss']:.5f}")
        figures = (*losses, str(r["best_step"]), f"{r['seconds']:.0f}")
        return (self.folder.name, " ".join(self.overrides), self.state, *figures)

    def has(self, overrides: Iterable[str]) -> bool:
        """Whether it is the job of these overrides, in whatever order they were typed."""
        return _identity(self.overrides) == _identity(overrides)


def job(folder: Path) -> Job:
    """Read a job's folder."""
    results = folder / "results.json"
    record, figures = _loaded(folder / RECORD), _loaded(results) if results.is_file() else None
    return Job(folder, record.get("overrides", []), record.get("exit_code"), figures)


def _loaded(file: Path) -> dict:
    return read_mapping(file, "is damaged: move its folder out of the sweep, and the job runs again.")


def jobs(folder: Path) -> list[Job]:
    """The jobs in a sweep's folder, in the order of their numbers."""
    found = (record.parent for record in folder.glob(f"*/{RECORD}"))
    return sorted((job(f) for f in found if f.name.split("_")[0].isdecimal()), key=lambda j: j.number)


def _identity(overrides: Iterable[str]) -> frozenset[str]:
    return frozenset(o for o in overrides if o.split("=")[0] not in ("name", "resume", "debug"))


def only_swept_in_names(arguments: list[str]) -> list[str]:
    """With -m, add the setting with which Hydra leaves overrides that all jobs share out of their folders' names."""
    if not any(a in ("-m", "--multirun") for a in arguments):
        return arguments
    typed = OverridesParser.create().parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
    shared = sorted({o.key_or_group for o in typed if not o.is_sweep_override()})
    return [*arguments, f"hydra.job.config.override_dirname.exclude_keys={json.dumps(shared)}"]


def forget() -> None:
    """After a mistake in the sweep's own command, delete what Hydra wrote before the first job."""
    if _begun is not None:
        with suppress(NotADirectoryError):
            (_begun / "multirun.yaml").unlink(missing_ok=True)
        remove_if_empty(_begun)


class Summary(Callback):
    """Hydra's callback that records each job in its folder, in the process that runs it, and prints the table."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _begun
        folder = Path(config.hydra.sweep.dir)
        _begun = None if (folder / "multirun.yaml").exists() else folder
        codes.clear()
        ended.clear()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _begun
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        _begun = None
        overrides = list(config.hydra.overrides.task)
        _write(Path(config.hydra.runtime.output_dir), overrides, None)
        say(f"\njob {config.hydra.job.num}: {' '.join(overrides)}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.runtime.output_dir)
        code = job_return._return_value  # the property raises what another launcher's job raised
        _write(folder, list(job_return.overrides or ()), code if isinstance(code, int) else 1)
        ended.add(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        there = jobs(folder)
        there += [job(f) for f in sorted(ended - {j.folder.absolute() for j in there})]
        mine = [j for j in there if not ended or j.folder.absolute() in ended]
        codes[:] = [1 if j.exit_code is None else j.exit_code for j in mine if not j.finished]
        rows = [j.row() for j in there]
        with written(folder / "summary.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([COLUMNS, *rows])
        console.print(_table(rows, shown(folder)))
        if figure := _figure(folder, there):
            say(f"figure: {shown(figure)}")
        where = shown(folder / "summary.csv")
        console.print(f"also in {where};  tensorboard --logdir {shown(folder)}", markup=False, soft_wrap=True)


def _write(folder: Path, overrides: list[str], exit_code: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # a job that failed at once has removed its empty folder
    write_text(folder / RECORD, json.dumps({"overrides": overrides, "exit_code": exit_code}, indent=2) + "\n")


def _figure(folder: Path, there: list[Job]) -> Path | None:
    """Write figure.png, validation loss and KD against steps; None if fewer than two settings can be compared.

    Jobs that differ in their seed alone are one band.
    """
    groups: dict[str, list[dict]] = {}
    common = set.intersection(*(set(j.overrides) for j in there)) if there else set()
    for j in there:
        if j.finished and (j.folder / "history.json").is_file():
            own = [o for o in j.overrides if o not in common and not o.startswith("seed=")]
            groups.setdefault(", ".join(own), []).append(_loaded(j.folder / "history.json"))
    if len(groups) < 2:
        return None
    from chrysalis.evaluation.plots import sweep_figure

    sweep_figure(folder / "figure.png", groups)
    return folder / "figure.png"


def _table(rows: list[tuple[str, ...]], title: str) -> Table:
    """The table for the screen: job numbers, overrides that not all jobs share, and states unless all are done."""
    common = set.intersection(*(set(row[1].split(" ")) for row in rows)) if len(rows) > 1 else set()
    shown_columns = [c for c in COLUMNS if c != "state" or {row[2] for row in rows} != {"done"}]
    table = Table(*(Column(name, overflow="fold") for name in shown_columns), title=title)
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        own = [o for o in cells["overrides"].split(" ") if o not in common]
        cells |= {"job": cells["job"].split("_")[0], "overrides": "\n".join(own)}
        table.add_row(*(escape(cells[name]) for name in shown_columns))
    return table


def is_job() -> bool:
    """Whether this process runs a job of a sweep, which has a number."""
    return HydraConfig.get().mode == RunMode.MULTIRUN or not OmegaConf.is_missing(HydraConfig.get().job, "num")
