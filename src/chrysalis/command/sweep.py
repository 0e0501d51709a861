"""After a sweep: one table of all jobs, on screen and as summary.csv."""

import csv
import json
from pathlib import Path

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Column, Table

from chrysalis.files import remove_if_empty, written
from chrysalis.terminal import console, say

COLUMNS = ("job", "overrides", "final loss", "best loss", "best step", "seconds")  # losses are held-out


_begun: Path | None = None  # the folder of a sweep of which no job has ended yet


def forget() -> None:
    """After a mistake in the sweep's own command: take away what Hydra wrote before the first job."""
    if _begun is not None:
        (_begun / "multirun.yaml").unlink(missing_ok=True)
        remove_if_empty(_begun)


class Summary(Callback):
    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        global _begun
        _begun = Path(config.hydra.sweep.dir)

    def on_job_start(self, config: DictConfig, **kwargs) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            say(f"\njob {config.hydra.job.num}: {' '.join(config.hydra.overrides.task)}")

    def on_job_end(self, config: DictConfig, job_return, **kwargs) -> None:
        global _begun
        _begun = None
        folder = Path(config.hydra.runtime.output_dir)
        overrides = " ".join(job_return.overrides or [])
        try:
            r = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        except OSError:
            self.rows.append((folder.name, overrides, "failed", "", "", ""))
            return
        figures = (
            f"{r['final_held_out_loss']:.5f}",
            f"{r['held_out_loss']:.5f}",
            str(r["best_step"]),
            f"{r['seconds']:.0f}",
        )
        self.rows.append((folder.name, overrides, *figures))

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        folder = Path(config.hydra.sweep.dir)
        with written(folder / "summary.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([COLUMNS, *self.rows])
        console.print(_table(self.rows, str(folder)))
        console.print(f"also in {folder / 'summary.csv'};  tensorboard --logdir {folder}", markup=False, soft_wrap=True)


def _table(rows: list[tuple[str, ...]], title: str) -> Table:
    """For the screen: each job by its number, with the overrides that not all of them share."""
    common = set.intersection(*(set(row[1].split(" ")) for row in rows)) if len(rows) > 1 else set()
    table = Table(*(Column(name, overflow="fold") for name in COLUMNS), title=title)
    for job, overrides, *figures in rows:
        own = [o for o in overrides.split(" ") if o not in common]
        table.add_row(*(escape(cell) for cell in (job.split("_")[0], "\n".join(own), *figures)))
    return table
