"""The early-stopping tables of docs/experiments.md: where each rule would have ended runs that went on to their end.

    python benchmarks/early_stopping.py RUNS [RUNS ...] [--record FILE.json]

RUNS: a run's folder, whose last checkpoint holds what every measurement found, picture by picture; or a file that
--record wrote, which holds that of all the runs it was given.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from chrysalis.callbacks.early_stop import EarlyStop

PATIENCE = (1, 2, 3, 5)
SURE = (0.0, 1.0, 2.0)  # standard errors
HEADER = "| patience | sure | steps made | held-out loss above the run's lowest | worst | never stopped |"


def measured(run: Path) -> dict[int, torch.Tensor]:
    """Of each measured step, the averaged weights' losses [N, bins]."""
    state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True, mmap=True)
    found = state["callbacks"]["HeldOut"]["measured"]
    return {step: losses["ema"] for step, losses in sorted(found.items())}


def recorded(file: Path) -> list[dict[int, torch.Tensor]]:
    """Of each run in the file; each picture's mean over the timesteps stands for them, [N, 1]."""
    runs = json.loads(file.read_text(encoding="utf-8")).values()
    return [{int(step): torch.tensor(losses).unsqueeze(1) for step, losses in run.items()} for run in runs]


def record(runs: dict[str, dict[int, torch.Tensor]]) -> str:
    """JSON of the runs, a line each; six digits are a hundredth of the smallest standard error."""
    rounded = {
        name: {step: [round(loss, 6) for loss in losses.mean(dim=1).tolist()] for step, losses in run.items()}
        for name, run in runs.items()
    }
    lines = [f"{json.dumps(name)}: {json.dumps(run, separators=(',', ':'))}" for name, run in rounded.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def stopped(losses: dict[int, torch.Tensor], rule: EarlyStop) -> int:
    """The step after which the rule ends the run."""
    for step in losses:
        rule.hear(step, losses[step])
        if rule.waited >= rule.patience:
            return step
    return max(losses)


def row(runs: list[dict[int, torch.Tensor]], patience: int, sure: float) -> str:
    """Of the table: what one rule would have made of the runs."""
    made, above = [], []
    for losses in runs:
        last = stopped(losses, EarlyStop(patience, sure))
        means = {step: values.mean().item() for step, values in losses.items()}
        made.append(last / max(losses))
        above.append(min(means[s] for s in means if s <= last) / min(means.values()) - 1)
    went_on = sum(m == 1 for m in made)
    figures = f"{statistics.mean(made):.0%} | {statistics.mean(above):.1%} | {max(above):.1%} | {went_on}"
    return f"| {patience} | {sure:g} | {figures} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--record", type=Path, help="write what the folders hold to this file")
    asked = parser.parse_args()
    folders = {f"{run.parent.name}/{run.name}": measured(run) for run in asked.runs if run.is_dir()}
    runs = [*folders.values(), *(run for file in asked.runs if file.is_file() for run in recorded(file))]
    if asked.record:
        asked.record.write_text(record(folders), encoding="utf-8")
    print(f"Of {len(runs)} runs:\n\n{HEADER}\n|--:|--:|--:|--:|--:|--:|")
    for patience in PATIENCE:
        for sure in SURE:
            print(row(runs, patience, sure))


if __name__ == "__main__":
    main()
