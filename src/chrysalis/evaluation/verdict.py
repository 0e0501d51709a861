"""One sentence at the end of a run: which step was best, and what came after it."""

from collections.abc import Sequence
from typing import Protocol

from chrysalis.metrics.memorisation import SURE
from chrysalis.metrics.timesteps import Paired


class Measured(Protocol):
    """The held-out losses of a run; measured: its steps."""

    measured: dict

    def difference(self, step: int, to: int = 0) -> Paired: ...


def verdict(best: int, last: int, held_out: Measured, evaluations: Sequence[dict]) -> str:
    """best, last: steps. evaluations: the rows of callbacks.evaluate.

    Surely: by Student's test of the paired differences. Copies appear where so many are no chance, for all the looks
    at the run together (Bonferroni).
    """
    looks = [row for row in evaluations if row["step"]]
    copied = [row["step"] for row in looks if row.get("copies_chance", 1.0) < SURE / len(looks)]
    learned = held_out.difference(best)
    better = learned.is_sure and learned.mean < 0
    if better:
        said = f"best at step {best:,}"
    elif learned.is_sure:
        said = f"worse than the base model on held-out pictures, also at the best step, {best:,}"
    else:
        said = "not surely better than the base model on held-out pictures"
    if best < last:
        said += f"; after that held-out loss {_moves(held_out.difference(last, to=best))}"
    elif better:
        before = [step for step in held_out.measured if step < best]
        if _moves(held_out.difference(best, to=max(before))) == "falls":
            said += ", the last one: held-out loss was still falling"
    if not copied:
        return said
    if copied[0] > best:
        return f"{said}{' and' if best < last else ','} copies of training pictures appear by step {copied[0]:,}"
    return f"{said}; copies of training pictures appear already by step {copied[0]:,}"


def _moves(change: Paired) -> str:
    if not change.is_sure:
        return "stays about the same"
    return "rises" if change.mean > 0 else "falls"
