"""The early-stopping table of docs/experiments.md: when each rule would have stopped runs that trained to their end.

    python benchmarks/early_stopping.py RUNS [RUNS ...] [--others RUNS [RUNS ...]] [--record FILE.json]

RUNS: a run's folder, whose last checkpoint contains every validation loss image by image; or a file that --record
wrote, which contains those of all the runs it was given.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from chrysalis.training.callbacks.early_stopping import EarlyStopping

PATIENCE = (1, 2, 3, 5)
MIN_DELTAS = (0.0, 1.0, 2.0)  # standard errors

Run = dict[int, torch.Tensor]  # {step: losses of every validation image}


def measured(run: Path) -> Run:
    """Read the EMA weights' validation losses [N, bins] of each measured step."""
    state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True, mmap=True)
    found = state["callbacks"]["Validation"]["measured"]
    return {step: losses["ema"] for step, losses in sorted(found.items())}


def recorded(file: Path) -> list[Run]:
    """Read every run in a file; a mean over the timesteps stands for each image's losses, [N, 1]."""
    runs = json.loads(file.read_text(encoding="utf-8")).values()
    return [{int(step): torch.tensor(losses).unsqueeze(1) for step, losses in run.items()} for run in runs]


def as_json(runs: dict[str, Run]) -> str:
    """Format the runs as JSON, one line each; six digits are far below any standard error."""
    rounded = {
        name: {step: [round(loss, 6) for loss in losses.mean(dim=1).tolist()] for step, losses in run.items()}
        for name, run in runs.items()
    }
    lines = [f"{json.dumps(name)}: {json.dumps(run, separators=(',', ':'))}" for name, run in rounded.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def stopped(losses: Run, rule: EarlyStopping) -> int:
    """The step after which the rule stops the run."""
    for step in losses:
        rule.update(step, losses[step])
        if rule.waited >= rule.patience:
            return step
    return max(losses)


def outcomes(runs: list[Run], patience: int, min_delta: float) -> tuple[list[float], list[float]]:
    """For each run: the fraction of its steps before the rule stops it, and how far the lowest validation loss by then
    is above the lowest of all, as a fraction."""
    trained, above = [], []
    for losses in runs:
        last = stopped(losses, EarlyStopping(patience, min_delta))
        means = {step: values.mean().item() for step, values in losses.items()}
        trained.append(last / max(losses))
        above.append(min(means[s] for s in means if s <= last) / min(means.values()) - 1)
    return trained, above


def row(runs: list[Run], others: list[Run], patience: int, min_delta: float) -> str:
    """One row of the table: the outcome of one rule."""
    trained, above = outcomes(runs, patience, min_delta)
    cells = [
        patience,
        f"{min_delta:g}",
        f"{statistics.mean(trained):.0%}",
        f"{statistics.mean(above):.1%}",
        f"{max(above):.1%}",
    ]
    if others:
        trained, above = outcomes(others, patience, min_delta)
        cells += [sum(fraction < 1 for fraction in trained), f"{max(above):.1%}"]
    return f"| {' | '.join(map(str, cells))} |"


def table(runs: list[Run], others: list[Run]) -> list[str]:
    head = ["patience", "min_delta", "steps trained", "above the lowest", "at worst"]
    head += [f"of {len(others)} others, stopped", "at worst"] if others else []
    rows = [row(runs, others, patience, min_delta) for patience in PATIENCE for min_delta in MIN_DELTAS]
    return [f"| {' | '.join(head)} |", "|" + "--:|" * len(head), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--others", nargs="+", type=Path, default=[], help="runs for two separate columns")
    parser.add_argument("--record", type=Path, help="write the losses of these folders to this file")
    options = parser.parse_args()
    groups, folders = [], {}
    for paths in (options.runs, options.others):
        there = {f"{run.parent.name}/{run.name}": measured(run) for run in paths if run.is_dir()}
        groups.append([*there.values(), *(run for file in paths if file.is_file() for run in recorded(file))])
        folders |= there
    if options.record:
        options.record.write_text(as_json(folders), encoding="utf-8")
    print("\n".join(table(*groups)))


if __name__ == "__main__":
    main()
