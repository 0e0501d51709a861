"""The plan of a run: its objects, and how many steps, epochs, measurements and forward passes it will have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.models.folder import Model
from chrysalis.system.terminal import warn
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.early_stopping import EarlyStopping
from chrysalis.training.callbacks.sample_evaluation import PASSES, SampleEvaluation
from chrysalis.training.callbacks.samples import Samples
from chrysalis.training.callbacks.stopping import Stopping
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.preflight.measuring import KEYS, Measuring, affordable, changes

ENDLESS = 100_000  # steps that the budget of a run without an end is computed for


@dataclass
class Plan:
    """What a run will do, from the objects that it is made of.

    size_note: a sentence if the image size is new to the model. resumed: whether the run continues. half: whether the
    exported UNet is float16. compiled: whether the UNet will be compiled. pinned: keys that the user chose, which are
    not made coarser. coarser: {key: value} of what measures less than configured; a resumed run keeps it.
    """

    model: Model
    data: ImageDataModule
    module: TrainingModule
    trainer: Trainer
    folder: Path
    size_note: str | None = None
    resumed: bool = False
    half: bool = False
    compiled: bool = False
    pinned: set[str] = field(default_factory=set)
    coarser: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self.data.trainer = self.trainer  # fit sets it later; counting micro-batches needs it now
        self.device = self.trainer.strategy.root_device
        self.validation, self.samples = find(self.trainer, Validation), find(self.trainer, Samples)
        self.evaluate, self.stopping = find(self.trainer, SampleEvaluation), find(self.trainer, Stopping)
        self.early_stopping = next((c for c in self.trainer.callbacks if isinstance(c, EarlyStopping)), None)
        if self.early_stopping is not None:
            self.pinned = {*self.pinned, KEYS["images_every"]}  # its patience counts measurements

    def prepare(self) -> None:
        """Check what would otherwise fail at the first evaluation, or never be noticed."""
        self.evaluate.prepare(self.trainer, self.data, self.images_per_step * self.trainer.world_size, self.steps)
        for note in self.data.notes(() if self.model.conditioner is None else self.model.conditioner.names):
            warn(note)
        if self.early_stopping is not None:
            every, n_validation = self.validation.every_n_train_steps, len(self.data.validation_rows)
            self.early_stopping.require_measurements(self.steps, every, n_validation)

    @property
    def batch_size(self) -> int:
        """Images of a micro-batch on one device."""
        assert isinstance(self.data.batch_size, int)  # fit_batch has settled it
        return self.data.batch_size

    @property
    def images_per_step(self) -> int:
        """Images of an optimizer step on one device."""
        return self.batch_size * self.trainer.accumulate_grad_batches

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.data.micro_batches() // self.trainer.accumulate_grad_batches)

    @property
    def steps(self) -> int | None:
        """Optimizer steps until max_steps or max_epochs; None if neither is given."""
        epochs = self.trainer.max_epochs
        limits = [self.trainer.max_steps, -1 if epochs in (None, -1) else epochs * self.steps_per_epoch]
        return min((limit for limit in limits if limit != -1), default=None)

    def expected_steps(self, seconds_per_pass: float) -> int:
        """Optimizer steps until the end or trainer.max_time; of a run without an end, ENDLESS."""
        most = self.steps or ENDLESS
        if (seconds := self.stopping.max_seconds) is not None:
            most = min(most, int(seconds / (self.passes_per_step * seconds_per_pass)))
        return max(1, most)

    @property
    def settled(self) -> dict[str, object]:
        """{key: value} of what the configuration left to this machine, for the record of the run."""
        settled: dict[str, object] = {
            "data.batch_size": self.batch_size,
            "trainer.accumulate_grad_batches": self.trainer.accumulate_grad_batches,
        }
        return settled | ({"measuring": self.coarser} if self.coarser else {})

    @property
    def measuring(self) -> Measuring:
        """What is measured and sampled, as the callbacks are set now."""
        validation, samples = self.validation, self.samples
        images = min(validation.n_images, len(self.data.validation_rows))
        validated = (images, validation.timesteps, validation.every_n_train_steps)
        return Measuring(*validated, samples.n, samples.steps, samples.every_n_train_steps)

    def keep_to_budget(self, seconds_per_pass: float, conditions: int) -> None:
        """Measure less where it would take too long beside the training, see measuring.py.

        Evaluation counts, and has a budget of its own, callbacks.evaluate.budget. A resumed run keeps its plan.
        """
        if self.resumed:
            return
        full, steps = self.measuring, self.expected_steps(seconds_per_pass)
        training = steps * self.passes_per_step * seconds_per_pass
        beside = self.evaluation_samples(steps) * self.evaluate.steps
        plan = affordable(full, steps, seconds_per_pass, training, self.pinned, conditions, beside)
        self.apply(changes(full, plan))

    def apply(self, coarser: Mapping[str, int]) -> None:
        """Set keys of the validation and samples callbacks."""
        self.coarser = dict(coarser)
        for key, value in coarser.items():
            _, callback, name = key.split(".")
            setattr({"validation": self.validation, "samples": self.samples}[callback], name, value)
        if KEYS["samples"] in coarser:  # of a conditional model: rows of two samples
            self.samples.rows = min(self.samples.rows, max(1, self.samples.n // 2))

    def forward_passes(self, conditions: int) -> tuple[int, int]:
        """(for training, for measuring and sampling), counted in images, on one device.

        conditions: that the EMA weights of a conditional model are measured under; 1 for others.
        """
        steps = self.steps or 0
        beside = sum(self.measuring.forward_passes(steps, conditions))
        return steps * self.passes_per_step, beside + self.evaluation_samples(steps) * self.evaluate.steps

    @property
    def passes_per_step(self) -> int:
        """Forward passes that a training step costs, counted in images: with gradient checkpointing one more each."""
        checkpointing = bool(getattr(self.model.unet, "is_gradient_checkpointing", False))
        return self.images_per_step * (PASSES + checkpointing)

    def evaluation_samples(self, steps: int) -> int:
        """Samples that one device generates for evaluation in so many steps."""
        schedule = self.evaluate.plan(self.steps, self.images_per_step * self.trainer.world_size)
        return schedule.n * schedule.count(steps) // self.trainer.world_size

    @property
    def sample_grids(self) -> int:
        """Sample grids of a run: the base model's, every n steps, and the export's."""
        return 1 + -(-(self.steps or 0) // self.samples.every_n_train_steps)


class SharePlan(Callback):
    """Gives all processes the first one's plan: only the first one times the base model."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def setup(self, trainer: Trainer, module: TrainingModule, stage: str) -> None:
        self.plan.apply(trainer.strategy.broadcast(self.plan.coarser))
