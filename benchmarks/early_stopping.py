"""The early-stopping tables of docs/experiments.md: where each rule would have ended runs that went on to their end.

    python benchmarks/early_stopping.py RUN [RUN ...]

RUN: a run's folder; its last checkpoint holds what every measurement found, picture by picture.
"""

import argparse
import statistics
from pathlib import Path

import torch

from chrysalis.callbacks.early_stop import EarlyStop

PATIENCE = (1, 2, 3, 5)
SURE = (0.0, 1.0, 2.0)  # standard errors


def measured(run: Path) -> dict[int, torch.Tensor]:
    """Of each measured step, the averaged weights' losses [N, bins]."""
    state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True, mmap=True)
    found = state["callbacks"]["HeldOut"]["measured"]
    return {step: losses["ema"] for step, losses in sorted(found.items())}


def stopped(losses: dict[int, torch.Tensor], rule: EarlyStop) -> int:
    """The step after which the rule ends the run."""
    for step in losses:
        rule.hear(step, losses[step])
        if rule.waited >= rule.patience:
            return step
    return max(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    runs = [measured(run) for run in parser.parse_args().runs]
    print(f"Of {len(runs)} runs:\n")
    print("| patience | sure | steps made | held-out loss above the run's lowest | worst | never stopped |")
    print("|--:|--:|--:|--:|--:|--:|")
    for patience in PATIENCE:
        for sure in SURE:
            made, above = [], []
            for losses in runs:
                last = stopped(losses, EarlyStop(patience, sure))
                means = {step: values.mean().item() for step, values in losses.items()}
                made.append(last / max(losses))
                above.append(min(means[s] for s in means if s <= last) / min(means.values()) - 1)
            went_on = sum(m == 1 for m in made)
            print(
                f"| {patience} | {sure:g} | {statistics.mean(made):.0%} | {statistics.mean(above):.1%} "
                f"| {max(above):.1%} | {went_on} |"
            )


if __name__ == "__main__":
    main()
