"""The plan of a run: its objects, its steps, epochs, measurements and forward passes, and its bytes on the disk."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.models.folder import Model
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.terminal import warn
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.early_stopping import EarlyStopping
from chrysalis.training.callbacks.sample_evaluation import PASSES, SampleEvaluation
from chrysalis.training.callbacks.samples import Samples
from chrysalis.training.callbacks.stopping import Stopping
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.memory_estimate import frozen_encoders, tensor_bytes
from chrysalis.training.preflight.measuring import KEYS, Measuring, affordable, changes

ENDLESS = 100_000  # steps that the budget of a run without an end is computed for


@dataclass(eq=False)
class Plan(Callback):
    """What a run will do, from the objects that it is made of; as a callback it broadcasts `coarser`.

    size_note: a sentence if the image size is new to the model. resumed: whether the run continues. half: whether the
    exported UNet is float16. compiled: whether the UNet will be compiled. pinned: keys that the user chose, which are
    not made coarser. coarser: {key: value} of measurements reduced below the configuration; a resumed run keeps them.

    batch_size: images of a micro-batch on one device. images_per_step: those of all devices. steps:
    until max_steps or max_epochs; None if neither is given. passes_per_step: forward passes that a training step costs
    on one device, counted in images.
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
        self.evaluation, self.stopping = find(self.trainer, SampleEvaluation), find(self.trainer, Stopping)
        self.early_stopping = next((c for c in self.trainer.callbacks if isinstance(c, EarlyStopping)), None)
        if self.early_stopping is not None:
            self.pinned = {*self.pinned, KEYS["images_every"]}  # its patience counts measurements

        assert isinstance(self.data.batch_size, int)  # fit_batch has resolved auto
        self.batch_size, self.accumulate = self.data.batch_size, self.trainer.accumulate_grad_batches
        self.images_per_step = self.batch_size * self.accumulate * self.trainer.world_size
        once_more = bool(getattr(self.model.unet, "is_gradient_checkpointing", False))
        self.passes_per_step = self.batch_size * self.accumulate * (PASSES + once_more)
        self.steps_per_epoch = -(-self.data.micro_batches() // self.accumulate)
        epochs = self.trainer.max_epochs
        limits = [self.trainer.max_steps, -1 if epochs in (None, -1) else epochs * self.steps_per_epoch]
        self.steps = min((limit for limit in limits if limit != -1), default=None)

    def setup(self, trainer: Trainer, module: TrainingModule, stage: str) -> None:
        self.apply(trainer.strategy.broadcast(self.coarser))  # only the first process has timed the base model

    def prepare(self) -> None:
        """Check what would otherwise fail at the first evaluation, or never be noticed."""
        self.evaluation.prepare(self.trainer, self.data, self.images_per_step, self.steps)
        for note in self.data.notes(() if self.model.conditioner is None else self.model.conditioner.names):
            warn(note)
        if self.early_stopping is not None:
            every, n_validation = self.validation.every_n_train_steps, len(self.data.validation_rows)
            self.early_stopping.require_measurements(self.steps, every, n_validation)

    def expected_steps(self, seconds_per_pass: float) -> int:
        """Optimizer steps until the end or trainer.max_time; of a run without an end, ENDLESS."""
        most = self.steps or ENDLESS
        if (seconds := self.stopping.max_seconds) is not None:
            most = min(most, int(seconds / (self.passes_per_step * seconds_per_pass)))
        return max(1, most)

    @property
    def settled(self) -> dict[str, object]:
        """{key: value} of what was chosen on this machine, for the run's config.yaml."""
        settled = {"data.batch_size": self.batch_size, "trainer.accumulate_grad_batches": self.accumulate}
        return {**settled, "measuring": self.coarser} if self.coarser else {**settled}

    @property
    def measuring(self) -> Measuring:
        """What is measured and sampled, as the callbacks are set now."""
        validation, samples = self.validation, self.samples
        images = min(validation.n_images, len(self.data.validation_rows))
        validated = (images, validation.timesteps, validation.every_n_train_steps)
        return Measuring(*validated, samples.n, samples.steps, samples.every_n_train_steps)

    def keep_to_budget(self, seconds_per_pass: float, conditions: int) -> None:
        """Measure less where it would take too long compared with the training, see measuring.py.

        Evaluation counts, and has a budget of its own, callbacks.evaluate.budget.
        """
        full, steps = self.measuring, self.expected_steps(seconds_per_pass)
        training = steps * self.passes_per_step * seconds_per_pass
        other_passes = self.evaluation_passes(steps)
        reduced = affordable(full, steps, seconds_per_pass, training, self.pinned, conditions, other_passes)
        self.apply(changes(full, reduced))

    def apply(self, coarser: Mapping[str, int]) -> None:
        """Set keys of the validation and samples callbacks."""
        self.coarser = dict(coarser)
        for key, value in coarser.items():
            _, callback, name = key.split(".")
            setattr({"validation": self.validation, "samples": self.samples}[callback], name, value)
        if KEYS["samples"] in coarser:  # a conditional model's rows have two samples or more
            self.samples.rows = min(self.samples.rows, max(1, self.samples.n // 2))

    def forward_passes(self, conditions: int) -> tuple[int, int]:
        """The forward passes (for training, for measuring and sampling) on one device, counted in images.

        conditions: number of those that a conditional model's EMA weights are measured under; 1 for other models.
        """
        steps = self.steps or 0
        measuring = sum(self.measuring.forward_passes(steps, conditions))
        return steps * self.passes_per_step, measuring + self.evaluation_passes(steps)

    def evaluation_passes(self, steps: int) -> int:
        """Forward passes for the evaluation's samples on one device in so many steps, counted in images."""
        schedule = self.evaluation.make_schedule(self.steps, self.images_per_step)
        return schedule.n * schedule.count(steps) // self.trainer.world_size * self.evaluation.steps

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint: the weights, the EMA weights in float32, the optimizer's state."""
        trainable = sum(p.numel() for _, p in self.module.trainable())
        weights = tensor_bytes(self.module.state_dict().values())
        return weights + 4 * trainable + int(self.module.optimizer_bytes_per_weight * trainable)

    @property
    def disk_bytes(self) -> int:
        """The most bytes that a run has on the disk at once.

        Those of the last, previous and best checkpoint and one that is being written; of the exported folder, with its
        frozen text encoders; and of the sample grids, as files and again in TensorBoard.
        """
        samples, (height, width) = self.samples, self.data.size
        encoders = [p for encoder in frozen_encoders(self.module.denoiser) for p in encoder.model.parameters()]
        pipeline = tensor_bytes([*self.module.state_dict().values(), *encoders])
        if self.half:
            pipeline -= tensor_bytes(self.module.denoiser.unet.state_dict().values()) // 2
        grids = 1 + -(-(self.steps or 0) // samples.every_n_train_steps)
        return 4 * self.checkpoint_bytes + pipeline + 2 * grids * samples.n * 3 * height * width

    def disk(self) -> tuple[int, int]:
        """(bytes that the run will still write, bytes that are free on its disk)."""
        used = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()) if self.resumed else 0
        existing = next(p for p in (self.folder.absolute(), *self.folder.absolute().parents) if p.is_dir())
        return max(self.disk_bytes - used, self.checkpoint_bytes), shutil.disk_usage(existing).free

    def require_room(self) -> None:
        """Raise UserError if the disk has less than the run needs."""
        needed, free = self.disk()
        if free < needed:
            raise UserError(
                f"{shown(self.folder)} needs about {decimal(needed)} for checkpoints, the pipeline and samples, and "
                f"{decimal(free)} are free there. Make room, or start the run in a folder on another disk."
            )
