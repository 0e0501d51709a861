"""What a run is made of, and how much of it there will be: steps, passes, measurements, forward passes."""

import math
from dataclasses import dataclass
from pathlib import Path

from lightning import Trainer

from chrysalis.callbacks.clock import of
from chrysalis.callbacks.early_stop import EarlyStop
from chrysalis.callbacks.evaluate import Evaluate
from chrysalis.callbacks.held_out import HeldOut
from chrysalis.callbacks.pictures import Pictures
from chrysalis.datamodule import Pictures as Data
from chrysalis.folder import Model
from chrysalis.module import FineTuning
from chrysalis.terminal import warn


@dataclass
class Plan:
    """note: about the pictures' size, if it is new to the model. resumed: whether the run has begun before.

    half: whether the exported UNet is to be float16.
    """

    model: Model
    data: Data
    module: FineTuning
    trainer: Trainer
    folder: Path
    note: str | None = None
    resumed: bool = False
    half: bool = False

    def __post_init__(self):
        self.data.trainer = self.trainer  # as fit does later: what counts micro-batches needs it now
        self.on = self.trainer.strategy.root_device
        self.held_out, self.pictures = of(self.trainer, HeldOut), of(self.trainer, Pictures)
        self.evaluate = of(self.trainer, Evaluate)

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

    def forward_passes(self, told: int) -> tuple[int, int]:
        """(of training, of measuring and drawing), counted in pictures, on one device.

        A training step costs three a picture, as its backward pass takes as long as two; with gradient checkpointing
        one more. told: in how many ways a conditional model is measured, 1 of others.
        """
        steps, held_out, drawn = self.steps or 0, self.held_out, self.pictures
        each = 4 if getattr(self.model.unet, "is_gradient_checkpointing", False) else 3
        measure = min(held_out.n_images, len(self.data.held_out_rows)) * held_out.bins
        measuring = measure * (1 + -(-steps // held_out.every_n_steps) * (1 + told))
        drawing = drawn.n * drawn.steps * self.drawings + self.evaluation * self.evaluate.steps
        return steps * self.pictures_a_step * each, measuring + drawing

    @property
    def evaluation(self) -> int:
        """How many pictures one device draws to hold them against the data."""
        steps = self.steps or 0
        when = self.evaluate.plan(steps, self.pictures_a_step * self.trainer.world_size)
        return when.n * when.times(steps) // self.trainer.world_size

    @property
    def drawings(self) -> int:
        """How often samples are drawn: of the base model, every n steps, and for the export."""
        return 1 + -(-(self.steps or 0) // self.pictures.every_n_steps)
