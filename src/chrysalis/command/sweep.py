"""After a sweep: one table of all jobs, on screen and as summary.csv."""

import csv
import json
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Column, Table

from chrysalis.files import remove_if_empty, written
from chrysalis.terminal import console

COLUMNS = ("job", "overrides", "final held-out loss", "best held-out loss", "best step", "seconds")


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
        table = Table(*(Column(name, overflow="fold") for name in COLUMNS), title=str(folder))
        for row in self.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
        console.print(f"also in {folder / 'summary.csv'};  tensorboard --logdir {folder}", markup=False, soft_wrap=True)
