"""One sentence at the end of a run: which step was best, and what came after it."""

from collections.abc import Sequence
from typing import Protocol

from chrysalis.metrics.memorisation import SURE
from chrysalis.metrics.timesteps import Paired

CLEAR = 2.0  # standard errors


class Measured(Protocol):
    """The held-out losses of a run; measured: its steps."""

    measured: dict

    def difference(self, step: int, to: int = 0) -> Paired: ...


def verdict(best: int, last: int, held_out: Measured, evaluations: Sequence[dict]) -> str:
    """best, last: steps. evaluations: the rows of callbacks.evaluate."""
    copied = [row["step"] for row in evaluations if row.get("copies_chance", 1.0) < SURE and row["step"]]
    learned = held_out.difference(best)
    if best == 0 or learned.mean > -CLEAR * learned.error:
        said = "not surely better than the base model on held-out pictures"
    else:
        said = f"best at step {best:,}"
    if best < last:
        rise = held_out.difference(last, to=best)
        after = "rises" if rise.mean > CLEAR * rise.error else "stays about the same"
        said += f"; after that held-out loss {after}"
    elif best:
        before = [step for step in held_out.measured if step < best]
        fall = held_out.difference(best, to=max(before))
        if fall.mean < -CLEAR * fall.error:
            said += ", the last one: held-out loss was still falling"
    if not copied:
        return said
    if copied[0] > best:
        return f"{said}{' and' if best < last else ','} copies of training pictures appear by step {copied[0]:,}"
    return f"{said}; copies of training pictures appear already by step {copied[0]:,}"
