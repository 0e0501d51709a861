"""What a run's metrics say, in one sentence that calls only significant differences a change."""

from collections.abc import Collection, Mapping

from torch import Tensor

from chrysalis.evaluation.distances import KD_FORMAT
from chrysalis.evaluation.memorization import SIGNIFICANCE_LEVEL
from chrysalis.evaluation.validation_loss import PairedDifference, paired_difference


def describe_change(difference: PairedDifference, base: float) -> str:
    """Describe the difference from the base model's validation loss `base`, such as "12 % lower than"; the base model's
    name follows."""
    if not difference.is_significant:
        return "no significant change from"
    percent = 100 * abs(difference.mean) / base
    return f"{percent:{'.0f' if percent >= 1 else '.1g'}} % {'lower' if difference.mean < 0 else 'higher'} than"


def verdict(best: int, losses: Mapping[int, Tensor], evaluations: Collection[dict]) -> str:
    """Say which step was best, what came after it, and what the samples show.

    Args:
        best: the best step.
        losses: the EMA weights' validation losses [N, bins] at every measured step; step 0 is the base model.
        evaluations: the records of callbacks.evaluate. Near-duplicates are mentioned where their number is significant
            after a Bonferroni correction for all evaluations of the run.
    """
    last, difference = max(losses), paired_difference(losses[best], losses[0])
    is_better = difference.is_significant and difference.mean < 0
    if is_better:
        sentence = f"best at step {best:,}"
    elif difference.is_significant:
        sentence = f"validation loss higher than the base model's even at the best step, {best:,}"
    else:
        sentence = "no significant change from the base model's validation loss"
    if best < last:
        sentence += f"; after that the validation loss {_trend(losses[last], losses[best])}"
    elif is_better:
        before = max(step for step in losses if step < best)
        if _trend(losses[best], losses[before]) == "falls":
            sentence += ", the last one: the validation loss was still falling"
    after_start = [row for row in evaluations if row["step"]]
    level = SIGNIFICANCE_LEVEL / max(1, len(after_start))
    memorized = [row["step"] for row in after_start if row.get("near_duplicate_p_value", 1.0) < level]
    if memorized:
        already, then = memorized[0] <= best, " and" if best < last else ","
        sentence += f"{';' if already else then} near-duplicates of training images appear"
        sentence += f"{' already' if already else ''} by step {memorized[0]:,}"
    at_best = next((row for row in evaluations if row["step"] == best), {})
    if at_best.get("kd_low", 0.0) > 0:  # the loss may be low and the samples bad
        sentence += f"; samples at the best step still differ from real images: KD {KD_FORMAT.format(**at_best)}"
        sentence += ", where 0 is no difference"
    return sentence


def _trend(later: Tensor, earlier: Tensor) -> str:
    change = paired_difference(later, earlier)
    if not change.is_significant:
        return "stays about the same"
    return "rises" if change.mean > 0 else "falls"
