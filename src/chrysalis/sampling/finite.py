"""Stopping at values that are not finite, with the step that gave them first."""

import torch

from chrysalis.sampling.loop import Step
from chrysalis.system.errors import UserError


class FiniteCheck:
    """Raise UserError for a trajectory with values that are not finite, and name the first step that gave them.

    immediate: raise at that step; otherwise only in `require`, so that a GPU need not be waited for at every step.
    Guidance waits for it anyway, and would itself fail on such values at the next step.
    """

    def __init__(self, scheduler: str, immediate: bool):
        self.scheduler, self.immediate = scheduler, immediate
        self.steps: list[tuple[int, torch.Tensor]] = []
        self.finite: list[torch.Tensor] = []

    def see(self, step: Step) -> None:
        self.steps.append((step.i, step.t))
        self.finite.append(step.x.isfinite().all())
        if self.immediate:
            self.require()

    def require(self) -> None:
        finite = torch.stack(self.finite).tolist() if self.finite else []
        if not all(finite):
            i, t = self.steps[finite.index(False)]
            raise UserError(
                f"step {i} (t={float(t):g}) of scheduler={self.scheduler} gave values that are not finite: "
                "lower the guidance's scale, or choose other steps or another scheduler."
            )
        self.steps, self.finite = [], []
