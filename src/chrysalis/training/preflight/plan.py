"""What a run is made of, and how much of it there will be: steps, passes, measurements, forward passes."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from chrysalis.data.datamodule import Pictures as Data
from chrysalis.models.folder import Model
from chrysalis.system.terminal import warn
from chrysalis.training.callbacks.clock import of
from chrysalis.training.callbacks.early_stopping import EarlyStop
from chrysalis.training.callbacks.evaluate import Evaluate
from chrysalis.training.callbacks.samples import Pictures
from chrysalis.training.callbacks.stopping import Stopping
from chrysalis.training.callbacks.validation import HeldOut
from chrysalis.training.module import FineTuning
from chrysalis.training.preflight.measuring import KEYS, Measuring, changes, planned

ENDLESS = 100_000  # steps after which a run without an end keeps to its share of measuring


@dataclass
class Plan:
    """note: about the pictures' size, if it is new to the model. resumed: whether the run has begun before.

    half: whether the exported UNet is to be float16. asked: keys that the user chose, which are not made coarser.
    coarser: {key: value} of what measures less than its default; of a resumed run as it was when the run began.
    """

    model: Model
    data: Data
    module: FineTuning
    trainer: Trainer
    folder: Path
    note: str | None = None
    resumed: bool = False
    half: bool = False
    asked: set[str] = field(default_factory=set)
    coarser: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self.data.trainer = self.trainer  # as fit does later: what counts micro-batches needs it now
        self.on = self.trainer.strategy.root_device
        self.held_out, self.pictures = of(self.trainer, HeldOut), of(self.trainer, Pictures)
        self.evaluate, self.stopping = of(self.trainer, Evaluate), of(self.trainer, Stopping)
        if any(isinstance(callback, EarlyStop) for callback in self.trainer.callbacks):
            self.asked = {*self.asked, KEYS["images_every"]}  # which counts measurements

    def prepare(self) -> None:
        """Raises UserError, or says, what would else be found out at the first evaluation, or never."""
        self.evaluate.prepare(self.trainer, self.data, math.inf if self.steps is None else self.steps)
        for note in self.data.notes(() if self.model.conditioner is None else self.model.conditioner.names):
            warn(note)
        for callback in self.trainer.callbacks:
            if isinstance(callback, EarlyStop):
                callback.require_measurements(self.steps, self.held_out.every_n_steps, len(self.data.held_out_rows))

    @property
    def pictures_a_step(self) -> int:
        """On one device."""
        return self.data.batch_size * self.trainer.accumulate_grad_batches

    @property
    def steps_a_pass(self) -> int:
        return -(-self.data.micro_batches() // self.trainer.accumulate_grad_batches)

    @property
    def steps(self) -> int | None:
        """Optimizer steps until max_steps or max_epochs; None if neither is given."""
        epochs = self.trainer.max_epochs
        limits = [self.trainer.max_steps, -1 if epochs in (None, -1) else epochs * self.steps_a_pass]
        return min((limit for limit in limits if limit != -1), default=None)

    @property
    def measuring(self) -> Measuring:
        """What is measured and sampled, as the callbacks have it now."""
        held_out, drawn = self.held_out, self.pictures
        images = min(held_out.n_images, len(self.data.held_out_rows))
        return Measuring(images, held_out.bins, held_out.every_n_steps, drawn.n, drawn.steps, drawn.every_n_steps)

    def keep_to_budget(self, seconds_a_pass: float, conditions: int) -> None:
        """Measure less where it would take longer than it should beside the training, see measuring.py.

        The first process times it, and the others are told by `Agreed`. preflight=false times nothing and measures all.
        Evaluation is counted, and keeps to a share of its own, callbacks.evaluate.share.
        """
        if self.resumed:
            return
        full, steps = self.measuring, self.expected_steps(seconds_a_pass)
        training = steps * self.passes_a_step * seconds_a_pass
        beside = self.evaluation(steps) * self.evaluate.steps
        plan = planned(full, steps, seconds_a_pass, training, self.asked, conditions, beside)
        self.apply(changes(full, plan))

    def expected_steps(self, seconds_a_pass: float) -> int:
        """`steps`, or as many as are made until trainer.max_time; of a run without an end, ENDLESS."""
        most = self.steps or ENDLESS
        if (seconds := self.stopping.max_seconds) is not None:
            most = min(most, int(seconds / (self.passes_a_step * seconds_a_pass)))
        return max(1, most)

    def apply(self, coarser: dict[str, int]) -> None:
        self.coarser = coarser
        for key, value in coarser.items():
            _, callback, name = key.split(".")
            setattr({"held_out": self.held_out, "pictures": self.pictures}[callback], name, value)
        if KEYS["samples"] in coarser:  # of a conditional model: rows of two samples
            self.pictures.rows = min(self.pictures.rows, max(1, self.pictures.n // 2))

    def forward_passes(self, told: int) -> tuple[int, int]:
        """(of training, of measuring and drawing), counted in pictures, on one device.

        A training step costs three a picture, as its backward pass takes as long as two; with gradient checkpointing
        one more. told: in how many ways a conditional model is measured, 1 of others.
        """
        steps = self.steps or 0
        beside = sum(self.measuring.passes(steps, told)) + self.evaluation(steps) * self.evaluate.steps
        return steps * self.passes_a_step, beside

    @property
    def passes_a_step(self) -> int:
        """Forward passes that a training step costs, counted in pictures."""
        return self.pictures_a_step * (4 if getattr(self.model.unet, "is_gradient_checkpointing", False) else 3)

    def evaluation(self, steps: int) -> int:
        """How many pictures one device draws in so many steps to hold them against the data."""
        when = self.evaluate.plan(self.steps or math.inf, self.pictures_a_step * self.trainer.world_size)
        return when.n * when.times(steps) // self.trainer.world_size

    @property
    def drawings(self) -> int:
        """How often samples are drawn: of the base model, every n steps, and for the export."""
        return 1 + -(-(self.steps or 0) // self.pictures.every_n_steps)


class Agreed(Callback):
    """Lets all processes measure what the first one has planned: only that one times the base model."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.plan.apply(trainer.strategy.broadcast(self.plan.coarser))
