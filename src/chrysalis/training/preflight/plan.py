"""What a run is made of, and how much of it there will be: steps, passes, measurements, forward passes."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from chrysalis.data.datamodule import ImageDataModule as ImageDataModule
from chrysalis.models.model import Model
from chrysalis.system.terminal import warn
from chrysalis.training.callbacks.clock import of
from chrysalis.training.callbacks.early_stopping import EarlyStopping
from chrysalis.training.callbacks.evaluate import Evaluate
from chrysalis.training.callbacks.samples import Samples
from chrysalis.training.callbacks.stopping import Stopping
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.module import FineTuning
from chrysalis.training.preflight.measuring import KEYS, Measuring, changes, planned

ENDLESS = 100_000  # steps after which a run without an end keeps to its share of measuring


@dataclass
class Plan:
    """note: about the images' size, if it is new to the model. resumed: whether the run has begun before.

    half: whether the exported UNet is to be float16. asked: keys that the user chose, which are not made coarser.
    coarser: {key: value} of what measures less than its default; of a resumed run as it was when the run began.
    """

    model: Model
    data: ImageDataModule
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
        self.validation, self.samples = of(self.trainer, Validation), of(self.trainer, Samples)
        self.evaluate, self.stopping = of(self.trainer, Evaluate), of(self.trainer, Stopping)
        if any(isinstance(callback, EarlyStopping) for callback in self.trainer.callbacks):
            self.asked = {*self.asked, KEYS["images_every"]}  # which counts measurements

    def prepare(self) -> None:
        """Raises UserError, or says, what would else be found out at the first evaluation, or never."""
        self.evaluate.prepare(self.trainer, self.data, math.inf if self.steps is None else self.steps)
        for note in self.data.notes(() if self.model.conditioner is None else self.model.conditioner.names):
            warn(note)
        for callback in self.trainer.callbacks:
            if isinstance(callback, EarlyStopping):
                callback.require_measurements(
                    self.steps, self.validation.every_n_train_steps, len(self.data.validation_rows)
                )

    @property
    def images_a_step(self) -> int:
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
        validation, drawn = self.validation, self.samples
        images = min(validation.n_images, len(self.data.validation_rows))
        return Measuring(
            images, validation.bins, validation.every_n_train_steps, drawn.n, drawn.steps, drawn.every_n_train_steps
        )

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
            setattr({"validation": self.validation, "samples": self.samples}[callback], name, value)
        if KEYS["samples"] in coarser:  # of a conditional model: rows of two samples
            self.samples.rows = min(self.samples.rows, max(1, self.samples.n // 2))

    def forward_passes(self, told: int) -> tuple[int, int]:
        """(of training, of measuring and drawing), counted in images, on one device.

        A training step costs three an image, as its backward pass takes as long as two; with gradient checkpointing
        one more. told: in how many ways a conditional model is measured, 1 of others.
        """
        steps = self.steps or 0
        beside = sum(self.measuring.passes(steps, told)) + self.evaluation(steps) * self.evaluate.steps
        return steps * self.passes_a_step, beside

    @property
    def passes_a_step(self) -> int:
        """Forward passes that a training step costs, counted in images."""
        return self.images_a_step * (4 if getattr(self.model.unet, "is_gradient_checkpointing", False) else 3)

    def evaluation(self, steps: int) -> int:
        """How many images one device draws in so many steps to hold them against the data."""
        when = self.evaluate.plan(self.steps or math.inf, self.images_a_step * self.trainer.world_size)
        return when.n * when.times(steps) // self.trainer.world_size

    @property
    def drawings(self) -> int:
        """How often samples are drawn: of the base model, every n steps, and for the export."""
        return 1 + -(-(self.steps or 0) // self.samples.every_n_train_steps)


class Agreed(Callback):
    """Lets all processes measure what the first one has planned: only that one times the base model."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.plan.apply(trainer.strategy.broadcast(self.plan.coarser))
