"""What a run's figures say, in words that cannot contradict each other: only what is significant is called a change."""

from collections.abc import Sequence
from typing import Protocol

from chrysalis.evaluation.memorization import SURE
from chrysalis.evaluation.validation_loss import Paired


class Measured(Protocol):
    """The validation losses of a run; measured: its steps."""

    measured: dict

    def difference(self, step: int, to: int = 0) -> Paired: ...


def change(difference: Paired, base: float) -> str:
    """The difference to the base model's validation loss `base`, such as "12 % lower than", for its name to follow.

    Significant: Student's 95 % interval of the paired differences leaves zero out.
    """
    if not difference.is_significant:
        return "no significant change from"
    percent = 100 * abs(difference.mean) / base
    return f"{percent:{'.0f' if percent >= 1 else '.1g'}} % {'lower' if difference.mean < 0 else 'higher'} than"


def verdict(best: int, last: int, validation: Measured, evaluations: Sequence[dict]) -> str:
    """One sentence: which step was best, what came after it, and what the samples say.

    best, last: steps. evaluations: the rows of callbacks.evaluate. Near-duplicates appear where so many are no chance,
    for all the looks at the run together (Bonferroni).
    """
    learned = validation.difference(best)
    better = learned.is_significant and learned.mean < 0
    if better:
        said = f"best at step {best:,}"
    elif learned.is_significant:
        said = f"worse than the base model on validation images, also at the best step, {best:,}"
    else:
        said = "no significant change from the base model on validation images"
    if best < last:
        said += f"; after that the validation loss {_moves(validation.difference(last, to=best))}"
    elif better:
        before = [step for step in validation.measured if step < best]
        if _moves(validation.difference(best, to=max(before))) == "falls":
            said += ", the last one: the validation loss was still falling"
    return said + _near_duplicates(best, last, evaluations) + _far_from_the_data(best, evaluations)


def _near_duplicates(best: int, last: int, evaluations: Sequence[dict]) -> str:
    looks = [row for row in evaluations if row["step"]]
    found = [row["step"] for row in looks if row.get("copies_chance", 1.0) < SURE / len(looks)]
    if not found:
        return ""
    if found[0] > best:
        return f"{' and' if best < last else ','} near-duplicates of training images appear by step {found[0]:,}"
    return f"; near-duplicates of training images appear already by step {found[0]:,}"


def _far_from_the_data(best: int, evaluations: Sequence[dict]) -> str:
    """A lower loss is no good sample yet: KD of the exported weights' samples, where its interval leaves zero out."""
    row = next((row for row in evaluations if row["step"] == best), {})
    if row.get("kd_low", 0.0) <= 0:
        return ""
    interval = f"95 % CI {row['kd_low']:.2g} to {row['kd_high']:.2g}"
    return f"; its samples still differ from the data (KD {row['kd']:.2g}, {interval}; 0 is no difference)"


def _moves(change: Paired) -> str:
    if not change.is_significant:
        return "stays about the same"
    return "rises" if change.mean > 0 else "falls"
