"""The early-stopping tables of docs/experiments.md: where each rule would have ended runs that went on to their end.

    python benchmarks/early_stopping.py RUNS [RUNS ...] [--others RUNS [RUNS ...]] [--record FILE.json]

RUNS: a run's folder, whose last checkpoint holds what every measurement found, image by image; or a file that
--record wrote, which holds that of all the runs it was given.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from chrysalis.training.callbacks.early_stopping import EarlyStopping

PATIENCE = (1, 2, 3, 5)
SURE = (0.0, 1.0, 2.0)  # standard errors

Run = dict[int, torch.Tensor]  # of each measured step, the losses of every validation image


def measured(run: Path) -> Run:
    """Of each measured step, the EMA weights' losses [N, bins]."""
    state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True, mmap=True)
    found = state["callbacks"]["Validation"]["measured"]
    return {step: losses["ema"] for step, losses in sorted(found.items())}


def recorded(file: Path) -> list[Run]:
    """Of each run in the file; each image's mean over the timesteps stands for them, [N, 1]."""
    runs = json.loads(file.read_text(encoding="utf-8")).values()
    return [{int(step): torch.tensor(losses).unsqueeze(1) for step, losses in run.items()} for run in runs]


def record(runs: dict[str, Run]) -> str:
    """JSON of the runs, a line each; six digits are far below any standard error."""
    rounded = {
        name: {step: [round(loss, 6) for loss in losses.mean(dim=1).tolist()] for step, losses in run.items()}
        for name, run in runs.items()
    }
    lines = [f"{json.dumps(name)}: {json.dumps(run, separators=(',', ':'))}" for name, run in rounded.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def stopped(losses: Run, rule: EarlyStopping) -> int:
    """The step after which the rule ends the run."""
    for step in losses:
        rule.update(step, losses[step])
        if rule.waited >= rule.patience:
            return step
    return max(losses)


def ended(runs: list[Run], patience: int, sure: float) -> tuple[list[float], list[float]]:
    """For each run: the fraction of its steps that a rule allows, and by which the lowest validation loss until then
    is above the lowest of all."""
    made, above = [], []
    for losses in runs:
        last = stopped(losses, EarlyStopping(patience, sure))
        means = {step: values.mean().item() for step, values in losses.items()}
        made.append(last / max(losses))
        above.append(min(means[s] for s in means if s <= last) / min(means.values()) - 1)
    return made, above


def row(runs: list[Run], others: list[Run], patience: int, sure: float) -> str:
    """Of the table: what one rule would have made of them."""
    made, above = ended(runs, patience, sure)
    cells = [
        patience,
        f"{sure:g}",
        f"{statistics.mean(made):.0%}",
        f"{statistics.mean(above):.1%}",
        f"{max(above):.1%}",
    ]
    if others:
        made, above = ended(others, patience, sure)
        cells += [sum(share < 1 for share in made), f"{max(above):.1%}"]
    return f"| {' | '.join(map(str, cells))} |"


def table(runs: list[Run], others: list[Run]) -> list[str]:
    head = ["patience", "min_delta", "steps made", "above", "at worst"]
    head += [f"of {len(others)} others, stopped", "at worst"] if others else []
    rows = [row(runs, others, patience, sure) for patience in PATIENCE for sure in SURE]
    return [f"| {' | '.join(head)} |", "|" + "--:|" * len(head), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--others", nargs="+", type=Path, default=[], help="runs for two columns of their own")
    parser.add_argument("--record", type=Path, help="write what the folders hold to this file")
    asked = parser.parse_args()
    groups, folders = [], {}
    for paths in (asked.runs, asked.others):
        there = {f"{run.parent.name}/{run.name}": measured(run) for run in paths if run.is_dir()}
        groups.append([*there.values(), *(run for file in paths if file.is_file() for run in recorded(file))])
        folders |= there
    if asked.record:
        asked.record.write_text(record(folders), encoding="utf-8")
    print("\n".join(table(*groups)))


if __name__ == "__main__":
    main()
