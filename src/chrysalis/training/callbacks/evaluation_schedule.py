"""The steps after which samples are evaluated, and how many samples there are each time."""

import math
from dataclasses import dataclass

from chrysalis.evaluation.distances import MIN_IMAGES_FOR_KD

PASSES = 3  # forward passes that an image's training step costs: its backward pass takes as long as two


@dataclass(frozen=True)
class EvaluationSchedule:
    """Evaluate n samples every so many of `total` steps, counted back from the last one.

    n: 0 for never. total: math.inf for a run without an end. base: evaluate the base model too. forward: count from
    the first step instead, and evaluate after the last one too.
    """

    n: int
    every: int = 1
    total: float = math.inf
    base: bool = False
    forward: bool = False

    def is_due(self, step: int) -> bool:
        if self.n == 0 or step == 0:
            return self.n > 0 and self.base
        if self.forward or self.total == math.inf:
            return step % self.every == 0 or step == self.total
        return (self.total - step) % self.every == 0 and self.total - step < self.total // self.every * self.every

    def count(self, steps: int) -> int:
        """The number of evaluations in so many steps, the base model's included."""
        if not self.n:
            return 0
        return self.is_due(0) + (-(-steps // self.every) if self.forward else steps // self.every)


def budget_schedule(
    n: int, budget: float, sampling_steps: int, images_per_step: int, total: int | None
) -> EvaluationSchedule:
    """Evaluate n samples as often as `budget` allows, a fraction of the forward passes of training.

    The last step is evaluated, and the base model first if there are three evaluations or more. A run too short for
    one evaluation of n samples has one of fewer, or none if they are too few for a kernel distance.
    """
    affordable = budget * PASSES * images_per_step / sampling_steps  # samples for each step of training
    if total is None:
        return EvaluationSchedule(n, max(1, round(n / affordable)), base=True)
    count = int(affordable * total / n)
    if count == 0:
        n = int(affordable * total)
        return EvaluationSchedule(n if n >= MIN_IMAGES_FOR_KD else 0, total, total)
    base = count >= 3
    return EvaluationSchedule(n, max(1, total // (count - base)), total, base)
