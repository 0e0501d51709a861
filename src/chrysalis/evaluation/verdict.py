"""What a run's metrics say, in one sentence that calls only significant differences a change."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from chrysalis.evaluation.distances import KernelDistance
from chrysalis.evaluation.memorization import SIGNIFICANCE_LEVEL
from chrysalis.evaluation.validation_loss import PairedDifference


class ValidationHistory(Protocol):
    """A run's validation losses. measured: by step."""

    @property
    def measured(self) -> Mapping[int, object]: ...

    def difference(self, step: int, to: int = 0) -> PairedDifference: ...


def describe_change(difference: PairedDifference, base: float) -> str:
    """Describe the difference to the base model's validation loss `base`, such as "12 % lower than"; the base model's
    name follows."""
    if not difference.is_significant:
        return "no significant change from"
    percent = 100 * abs(difference.mean) / base
    return f"{percent:{'.0f' if percent >= 1 else '.1g'}} % {'lower' if difference.mean < 0 else 'higher'} than"


def verdict(best: int, last: int, validation: ValidationHistory, evaluations: Sequence[dict]) -> str:
    """Say which step was best, what came after it, and what the samples show.

    Args:
        best: the best step. last: the last one.
        evaluations: the records of callbacks.evaluate. Near-duplicates are mentioned where their number is significant
            after a Bonferroni correction for all evaluations of the run.
    """
    difference = validation.difference(best)
    is_better = difference.is_significant and difference.mean < 0
    if is_better:
        sentence = f"best at step {best:,}"
    elif difference.is_significant:
        sentence = f"validation loss higher than the base model's even at the best step, {best:,}"
    else:
        sentence = "no significant change from the base model's validation loss"
    if best < last:
        sentence += f"; after that the validation loss {_trend(validation.difference(last, to=best))}"
    elif is_better:
        before = max(step for step in validation.measured if step < best)
        if _trend(validation.difference(best, to=before)) == "falls":
            sentence += ", the last one: the validation loss was still falling"
    return sentence + _memorization(best, last, evaluations) + _distance_to_data(best, evaluations)


def _memorization(best: int, last: int, evaluations: Collection[dict]) -> str:
    after_start = [row for row in evaluations if row["step"]]
    level = SIGNIFICANCE_LEVEL / max(1, len(after_start))
    first = next((row["step"] for row in after_start if row.get("near_duplicate_p_value", 1.0) < level), None)
    if first is None:
        return ""
    if first > best:
        return f"{' and' if best < last else ','} near-duplicates of training images appear by step {first:,}"
    return f"; near-duplicates of training images appear already by step {first:,}"


def _distance_to_data(best: int, evaluations: Collection[dict]) -> str:
    """Mention KD of the exported weights' samples where its interval excludes zero: a low loss is no good sample."""
    row = next((row for row in evaluations if row["step"] == best), {})
    if row.get("kd_low", 0.0) <= 0:
        return ""
    kd = KernelDistance(row["kd"], row["kd_low"], row["kd_high"])
    return f"; its samples still differ from real images: KD {kd}, where 0 is no difference"


def _trend(change: PairedDifference) -> str:
    if not change.is_significant:
        return "stays about the same"
    return "rises" if change.mean > 0 else "falls"
