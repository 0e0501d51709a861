"""Which step's averaged weights are the best, by a chosen figure."""

from lightning import Callback

from chrysalis.system.errors import UserError

LOWER = {"held_out_loss": True, "kd": True, "fd": True, "coverage": False}


class Best(Callback):
    """Hears the figures that other callbacks measure; best.ckpt and the export follow its step.

    figure: held_out_loss, or kd, fd, coverage of callbacks.evaluate.
    """

    def __init__(self, figure: str = "held_out_loss"):
        if figure not in LOWER:
            raise UserError(f"callbacks.best.figure={figure} is unknown: choose one of {', '.join(LOWER)}.")
        self.figure, self.step, self.value = figure, 0, float("inf")

    def hear(self, figure: str, step: int, value: float) -> None:
        signed = value if LOWER[figure] else -value
        if figure == self.figure and signed < self.value:
            self.step, self.value = step, signed

    def on_validation_images_changed(self) -> None:
        if self.figure == "held_out_loss":
            self.step, self.value = 0, float("inf")

    def state_dict(self) -> dict:
        return {"figure": self.figure, "step": self.step, "value": self.value}

    def load_state_dict(self, state: dict) -> None:
        if state["figure"] == self.figure:
            self.step, self.value = state["step"], state["value"]
