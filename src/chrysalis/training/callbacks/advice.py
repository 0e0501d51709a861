"""Once the speed is known: whether torch.compile would pay for itself in this run."""

from lightning import Callback, LightningModule, Trainer

from chrysalis.system import compiling
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.clock import Clock, of
from chrysalis.training.callbacks.progress import total_steps

GAIN = {"cpu": 0.10, "cuda": 0.25}  # the share of a step's time that compiling saves


def minutes_saved(seconds: float, on: str) -> float | None:
    """By compiling before training that takes `seconds`; None where compiling costs a third of that or more."""
    saved = seconds * GAIN.get(on, 0)
    return (saved - compiling.SECONDS) / 60 if saved > 3 * compiling.SECONDS else None


class Advice(Callback):
    """Says so after `after` optimizer steps, if compiling would pay; `said`: only once."""

    def __init__(self, compile: bool | str = False, after: int = 20):
        self.compiled, self.after, self.said = bool(compile), after, False

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if self.said or trainer.global_step < self.after:
            return
        self.said = True
        speed, total = of(trainer, Clock).images_per_second(), total_steps(trainer)
        if not speed or not total:
            return
        left = (total - trainer.global_step) * batch.window / speed
        minutes = minutes_saved(left, trainer.strategy.root_device.type)
        if not self.compiled and minutes:
            say(f"compile=true would make such a run about {minutes:.0f} minutes shorter.")
