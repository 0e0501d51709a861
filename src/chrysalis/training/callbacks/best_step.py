"""The step whose EMA weights are the best by a chosen figure."""

from typing import Any

from chrysalis.system.errors import UserError
from chrysalis.training.callbacks.base import Callback

LOWER_IS_BETTER = {"val_loss": True, "kd": True, "fd": True, "coverage": False}


class Best(Callback):
    """Keeps the best step so far, whose weights go into best.ckpt and the export."""

    def __init__(self, monitor: str = "val_loss"):
        if monitor not in LOWER_IS_BETTER:
            raise UserError(f"callbacks.best.monitor={monitor} is unknown: choose one of {', '.join(LOWER_IS_BETTER)}.")
        self.monitor, self.step, self.value = monitor, 0, float("inf")

    def update(self, monitor: str, step: int, value: float) -> None:
        """Take note of a figure that another callback has measured at a step."""
        signed = value if LOWER_IS_BETTER[monitor] else -value
        if monitor == self.monitor and signed < self.value:
            self.step, self.value = step, signed

    def on_validation_images_changed(self) -> None:
        if self.monitor == "val_loss":
            self.step, self.value = 0, float("inf")

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "step": self.step, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["monitor"] == self.monitor:
            self.step, self.value = state["step"], state["value"]
