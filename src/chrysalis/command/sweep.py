"""A sweep is a folder of job folders; at the end there is one table of them, on screen and as summary.csv."""

import csv
import json
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Column, Table

from chrysalis.system.files import read_mapping, remove_if_empty, shown, write_text, written
from chrysalis.system.terminal import console, say

COLUMNS = ("job", "overrides", "state", "final loss", "best loss", "best step", "seconds")  # losses are validation
RECORD = "job.json"  # in each job's folder: its overrides, and the exit code once it has ended
STOPPED = {128 + s for s in (signal.SIGINT, signal.SIGTERM)} | {-signal.SIGINT, -signal.SIGTERM}

codes: list[int] = []  # the exit codes of the jobs of this command that failed
seen: set[Path] = set()  # the folders of those jobs, as far as they ended in this process
_begun: Path | None = None  # the new folder of a sweep of which no job has begun yet


@dataclass(frozen=True)
class Job:
    folder: Path
    overrides: list[str]
    exit_code: int | None  # None: it has not ended, or nobody was there to see it
    results: dict | None

    @property
    def number(self) -> int:
        return int(self.folder.name.split("_")[0])

    @property
    def finished(self) -> bool:
        """An interrupted job has results too, of the steps that it made."""
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

    def row(self) -> tuple[str, ...]:
        if (r := self.results) is None:
            return (self.folder.name, " ".join(self.overrides), self.state, "", "", "", "")
        losses = (f"{r['final_val_loss']:.5f}", f"{r['val_loss']:.5f}")
        figures = (*losses, str(r["best_step"]), f"{r['seconds']:.0f}")
        return (self.folder.name, " ".join(self.overrides), self.state, *figures)

    def is_of(self, overrides: list[str]) -> bool:
        return _identity(self.overrides) == _identity(overrides)


def job(folder: Path) -> Job:
    results = folder / "results.json"
    record, figures = _loaded(folder / RECORD), _loaded(results) if results.is_file() else None
    return Job(folder, record.get("overrides", []), record.get("exit_code"), figures)


def _loaded(file: Path) -> dict:
    return read_mapping(file, "is damaged: take its folder out of the sweep's, and that job runs again.")


def jobs(folder: Path) -> list[Job]:
    """Those of a sweep's folder, by their numbers."""
    found = (record.parent for record in folder.glob(f"*/{RECORD}"))
    return sorted((job(f) for f in found if f.name.split("_")[0].isdecimal()), key=lambda j: j.number)


def _identity(overrides: list[str]) -> frozenset[str]:
    """What makes a job this one and no other, in whatever order it was typed."""
    return frozenset(o for o in overrides if o.split("=")[0] not in ("name", "resume", "debug"))


def only_swept_in_names(arguments: list[str]) -> list[str]:
    """With -m, tell Hydra to leave what all jobs share out of the names of their folders."""
    if not any(a in ("-m", "--multirun") for a in arguments):
        return arguments
    typed = OverridesParser.create().parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
    shared = sorted({o.key_or_group for o in typed if not o.is_sweep_override()})
    return [*arguments, f"hydra.job.config.override_dirname.exclude_keys={json.dumps(shared)}"]


def forget() -> None:
    """After a mistake in the sweep's own command: take away what Hydra wrote before the first job."""
    if _begun is not None:
        with suppress(NotADirectoryError):
            (_begun / "multirun.yaml").unlink(missing_ok=True)
        remove_if_empty(_begun)


class Summary(Callback):
    """Records each job in its folder, in whichever process its launcher runs it, and shows the table."""

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        global _begun
        folder = Path(config.hydra.sweep.dir)
        _begun = None if (folder / "multirun.yaml").exists() else folder
        codes.clear()
        seen.clear()

    def on_job_start(self, config: DictConfig, **kwargs) -> None:
        global _begun
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        _begun = None
        overrides = list(config.hydra.overrides.task)
        _write(Path(config.hydra.runtime.output_dir), overrides, None)
        say(f"\njob {config.hydra.job.num}: {' '.join(overrides)}")

    def on_job_end(self, config: DictConfig, job_return, **kwargs) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.runtime.output_dir)
        code = job_return._return_value  # the property would raise what another launcher's job has raised
        _write(folder, list(job_return.overrides), code if isinstance(code, int) else 1)
        seen.add(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        folder = Path(config.hydra.sweep.dir)
        there = jobs(folder)
        there += [job(f) for f in sorted(seen - {j.folder.absolute() for j in there})]
        mine = [j for j in there if not seen or j.folder.absolute() in seen]
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
    folder.mkdir(parents=True, exist_ok=True)  # a job that failed at once has taken its empty folder away
    write_text(folder / RECORD, json.dumps({"overrides": overrides, "exit_code": exit_code}, indent=2) + "\n")


def _figure(folder: Path, there: list[Job]) -> Path | None:
    """figure.png: validation loss and KD against steps, jobs that differ in their seed alone as one band; None where
    there is nothing to compare."""
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
    """For the screen: each job by its number, with the overrides that not all share, and states if they differ."""
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
    """Whether this process runs a job of a sweep: a job has a number."""
    return HydraConfig.get().mode == RunMode.MULTIRUN or not OmegaConf.is_missing(HydraConfig.get().job, "num")
