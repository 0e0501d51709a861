"""Compare samples with the data during training: distances, and near-duplicates of training images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from chrysalis.conditions import batches
from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.evaluation.distances import MIN_IMAGES_FOR_KD, MIN_IMAGES_FOR_PRECISION
from chrysalis.evaluation.features import Network
from chrysalis.evaluation.reference import Evaluation, Reference, distinct_train_rows, reference_rows
from chrysalis.sampling import schedulers
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Nearest, NotNegative, Positive, PositiveFraction, Seed
from chrysalis.system.terminal import say, stage
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.base_model import BaseModel
from chrysalis.training.callbacks.best_step import LOWER_IS_BETTER, Best
from chrysalis.training.callbacks.clock import paused
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.callbacks.evaluation_schedule import EvaluationSchedule, budget_schedule
from chrysalis.training.callbacks.generation import generate
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.logger import log_image, log_metrics


class Evaluate(Callback):
    """Generates samples with the EMA weights and compares them with the data, see evaluation/reference.py.

    A conditional model's samples have the conditions of validation images. If the exported weights are of a step that
    was not evaluated, they are evaluated at the end, beyond the budget.
    """

    saved = ("history",)

    def __init__(
        self,
        run_dir: str,
        features: Callable[[], Network],
        n: NotNegative = 256,
        every_n_train_steps: Positive | Literal["auto"] = "auto",
        budget: PositiveFraction = 0.04,
        scheduler: str = "dpmpp_2m",
        steps: Positive = 10,
        seed: Seed = 100_000,
        batch_size: Positive = 64,
        n_nearest: Nearest = 8,
    ):
        schedulers.require_known(scheduler, "callbacks.evaluate.scheduler")
        self.run_dir, self.n, self.every_n_train_steps, self.budget = Path(run_dir), n, every_n_train_steps, budget
        self.scheduler, self.steps, self.seed, self.batch_size = scheduler, steps, seed, batch_size
        self.features, self.n_nearest = features, n_nearest
        self.history: list[dict] = []  # the record of each evaluated step, in their order
        self.schedule = EvaluationSchedule(0)
        self.network: Network | None = None
        self.reference: Reference | None = None

    def prepare(self, trainer: Trainer, data: ImageDataModule, images_per_step: int, total: int | None) -> None:
        """Load the network and settle the schedule before training of `total` steps (None: without an end).

        Raises UserError if the network cannot be loaded, or callbacks.best.monitor will not be measured.
        """
        self.schedule = self.plan(total, images_per_step)
        if self.schedule.n and len(distinct_train_rows(data)) < 2:
            say("Evaluation skipped: memorization needs at least two distinct training images.")
            self.schedule = EvaluationSchedule(0)
        if self.schedule.n:
            if not callable(self.features):
                raise UserError("callbacks.evaluate.features=null: choose a network with features=, or n=0.")
            self.network = self.features()
        self._require_measured(find(trainer, Best).monitor, len(reference_rows(data)[0]), total)

    def _require_measured(self, monitor: str, n_real: int, total: int | None) -> None:
        """Check that the figure that chooses the best step will be measured."""
        if monitor == "val_loss":
            return
        key, schedule = f"callbacks.best.monitor={monitor}", self.schedule
        if self.network is None or (total is not None and schedule.count(total) - schedule.is_due(0) < 2):
            raise UserError(
                f"{key} needs two measurements to choose between, and this run would make fewer: set "
                "callbacks.evaluate.every_n_train_steps (and .n) to numbers."
            )
        least = {"fd": self.network.dim + 1, "kd": MIN_IMAGES_FOR_KD, "coverage": MIN_IMAGES_FOR_PRECISION}[monitor]
        if min(n_real, schedule.n) < least:
            raise UserError(
                f"{key} needs {least} images, and there are {n_real} real and {schedule.n} generated ones: raise "
                "callbacks.evaluate.n or data.val_fraction, or choose another callbacks.best.monitor."
            )

    def plan(self, total: int | None, images_per_step: int) -> EvaluationSchedule:
        """The schedule of a run of `total` steps (None: without an end)."""
        if self.n == 0 or total == 0:
            return EvaluationSchedule(0)
        if isinstance(self.every_n_train_steps, int):
            end = math.inf if total is None else total
            return EvaluationSchedule(self.n, self.every_n_train_steps, end, base=True, forward=True)
        return budget_schedule(self.n, self.budget, self.steps, images_per_step, total)

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        self._evaluate_if_due(trainer, module)  # the run may have been stopped before it could

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        self._evaluate_if_due(trainer, module)

    def _evaluate_if_due(self, trainer: Trainer, module: FineTuning) -> None:
        step, done = trainer.global_step, [row["step"] for row in self.history]
        base_model = find(trainer, BaseModel)
        if step and self.schedule.is_due(0) and 0 not in done and base_model.weights:
            with base_model.applied(trainer, module):
                self._evaluate(trainer, module, 0)
        if step and self.schedule.is_due(step) and step not in done:
            validation = find(trainer, Validation)
            if validation.history[-1][0] < step:
                validation.measure(trainer, module)
            with find(trainer, EMA).applied(module):
                self._evaluate(trainer, module, step)

    def record_at(self, trainer: Trainer, module: FineTuning, step: int) -> dict | None:
        """The record of a step whose weights are applied; evaluated now, by this process alone, if it was not before.

        None if nothing is evaluated.
        """
        if self.schedule.n and step and step not in [row["step"] for row in self.history]:
            self._evaluate(trainer, module, step, alone=True)
        return next((row for row in self.history if row["step"] == step), None)

    def _evaluate(self, trainer: Trainer, module: FineTuning, step: int, alone: bool = False) -> None:
        with paused(trainer):
            if self.reference is None:
                self.reference = self._make_reference(trainer, module, alone)
            images = self.generate(trainer, module, alone)
            with stage("evaluation features"):
                evaluation = self.reference.evaluate(images)
            row = {"step": step, **evaluation.record}
            if not alone:
                row = trainer.strategy.broadcast(row)  # its last bits may differ, and with them the best step
            if not self.history:
                for why in evaluation.record["notes"]:
                    say(why)
            self.history = sorted([*self.history, row], key=lambda other: other["step"])
            for name in LOWER_IS_BETTER.keys() & row.keys():
                if step and not alone:
                    find(trainer, Best).update(name, step, row[name])
            say(f"step {step}: {evaluation.summary()}")
            self._write(trainer, self.reference, evaluation, images, step)

    def _make_reference(self, trainer: Trainer, module: FineTuning, alone: bool) -> Reference:
        """Features of the data: the first process computes them, the others read them from the cache."""
        assert self.network is not None  # loaded by prepare
        is_first = trainer.is_global_zero
        if not is_first:
            trainer.strategy.barrier()
        reference = Reference(self.network, trainer.datamodule, module.device)
        if is_first and not alone:
            trainer.strategy.barrier()
        return reference

    def generate(self, trainer: Trainer, module: FineTuning, alone: bool = False) -> torch.Tensor:
        """uint8 [n, 3, H, W] on the CPU, image i from seed + i; unless `alone`, the processes divide the work."""
        n, (rank, processes) = self.schedule.n, (0, 1) if alone else (trainer.global_rank, trainer.world_size)
        own = [i % n for i in range(rank, -(-n // processes) * processes, processes)]
        conditions, image_seeds = self._conditions(trainer, module), [self.seed + i for i in own]
        cond = None if conditions is None else batches.rows(conditions, own)
        how = (self.scheduler, self.steps, "evaluation samples", self.batch_size)
        images = generate(trainer, module, image_seeds, cond, *how)
        if processes > 1:
            gathered = module.all_gather(images)
            assert isinstance(gathered, torch.Tensor)  # of a tensor it is one
            images = gathered.transpose(0, 1).flatten(0, 1)[:n]
        return images.cpu()

    def _conditions(self, trainer: Trainer, module: FineTuning) -> dict | None:
        conditioner = module.denoiser.conditioner
        if conditioner is None:
            return None
        batch = trainer.datamodule.validation_batch(self.schedule.n)
        return batches.rows(batches.from_batch(batch, conditioner), [i % len(batch) for i in range(self.schedule.n)])

    def _write(
        self, trainer: Trainer, reference: Reference, evaluation: Evaluation, images: torch.Tensor, step: int
    ) -> None:
        if trainer.is_global_zero:
            image = reference.nearest_grid(evaluation, images, self.n_nearest)
            pixels.save_png(image, self.run_dir / "nearest" / f"step_{step:06d}.png")
            values = {f"samples_evaluation/{name}": value for name, value in evaluation.metrics.items()}
            log_metrics(trainer, values, step)
            log_image(trainer, "samples_nearest", image, step)
