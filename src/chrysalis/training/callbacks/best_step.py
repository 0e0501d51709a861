"""Which step's EMA weights are the best, by a chosen figure."""

from lightning import Callback

from chrysalis.system.errors import UserError

LOWER = {"val_loss": True, "kd": True, "fd": True, "coverage": False}


class Best(Callback):
    """Hears the figures that other callbacks measure; best.ckpt and the export follow its step.

    figure: val_loss, or kd, fd, coverage of callbacks.evaluate.
    """

    def __init__(self, monitor: str = "val_loss"):
        if monitor not in LOWER:
            raise UserError(f"callbacks.best.monitor={monitor} is unknown: choose one of {', '.join(LOWER)}.")
        self.monitor, self.step, self.value = monitor, 0, float("inf")

    def hear(self, monitor: str, step: int, value: float) -> None:
        signed = value if LOWER[monitor] else -value
        if monitor == self.monitor and signed < self.value:
            self.step, self.value = step, signed

    def on_validation_images_changed(self) -> None:
        if self.monitor == "val_loss":
            self.step, self.value = 0, float("inf")

    def state_dict(self) -> dict:
        return {"monitor": self.monitor, "step": self.step, "value": self.value}

    def load_state_dict(self, state: dict) -> None:
        if state["monitor"] == self.monitor:
            self.step, self.value = state["step"], state["value"]
