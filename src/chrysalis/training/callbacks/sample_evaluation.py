"""Compare samples with the data during training, on a schedule: distances, near-duplicates of training images."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from chrysalis.conditions import batches
from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.evaluation.distances import MIN_IMAGES_FOR_KD, MIN_IMAGES_FOR_PRECISION
from chrysalis.evaluation.features import Network
from chrysalis.evaluation.reference import ReferenceFeatures, digest_in_records, distinct_train_rows, reference_rows
from chrysalis.sampling import schedulers
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import From1To64, Positive, PositiveFraction, Seed, UpTo1000000
from chrysalis.system.terminal import say, stage
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.checkpoint import LOWER_IS_BETTER, Best
from chrysalis.training.callbacks.ema import EMA, BaseModel, applied
from chrysalis.training.callbacks.progress import Clock
from chrysalis.training.callbacks.samples import generate
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.logger import log_image, log_metrics

PASSES = 3  # forward passes that an image's training step costs: its backward pass takes as long as two


@dataclass(frozen=True)
class Schedule:
    """Evaluate n samples every so many of `total` steps, counted back from the last one.

    n: 0 for never. total: math.inf for a run without an end. base: evaluate the base model too. forward: count from
    the first step instead, and evaluate after the last one too.
    """

    n: int
    every: int = 1
    total: float = math.inf
    base: bool = False
    forward: bool = False

    def is_due(self, step: int) -> bool:
        if self.n == 0 or step == 0:
            return self.n > 0 and self.base
        if self.forward or self.total == math.inf:
            return step % self.every == 0 or step == self.total
        return (self.total - step) % self.every == 0 and self.total - step < self.total // self.every * self.every

    def count(self, steps: int) -> int:
        """The number of evaluations in so many steps, the base model's included."""
        if not self.n:
            return 0
        return self.is_due(0) + (-(-steps // self.every) if self.forward else steps // self.every)


class SampleEvaluation(Callback):
    """Generates samples with the EMA weights and compares them with the data, see evaluation/reference.py.

    A conditional model's samples have the conditions of validation images. If the exported weights are of a step that
    was not evaluated, they are evaluated at the end, beyond the budget.
    """

    saved = ("history",)

    def __init__(
        self,
        run_dir: str,
        features: Callable[[], Network],
        n: UpTo1000000 = 256,
        every_n_train_steps: Positive | Literal["auto"] = "auto",
        budget: PositiveFraction = 0.04,
        scheduler: str = "dpmpp_2m",
        steps: Positive = 10,
        seed: Seed = 100_000,
        batch_size: Positive = 64,
        n_nearest: From1To64 = 8,
    ):
        schedulers.require_known(scheduler, "callbacks.evaluate.scheduler")
        self.run_dir, self.n, self.every_n_train_steps, self.budget = Path(run_dir), n, every_n_train_steps, budget
        self.scheduler, self.steps, self.seed, self.batch_size = scheduler, steps, seed, batch_size
        self.features, self.n_nearest = features, n_nearest
        self.history: list[dict] = []  # the record of each evaluated step, in their order
        self.schedule = Schedule(0)
        self.network: Network | None = None
        self.reference: ReferenceFeatures | None = None

    def make_schedule(self, total: int | None, images_per_step: int) -> Schedule:
        """The schedule of a run of `total` steps (None: without an end).

        "auto" evaluates as often as the budget allows, a fraction of the forward passes of training. The last step is
        evaluated, and the base model first if there are three evaluations or more. A run too short for one evaluation
        of n samples has one of fewer, or none if they are too few for a kernel distance.
        """
        if self.n == 0 or total == 0:
            return Schedule(0)
        if isinstance(self.every_n_train_steps, int):
            end = math.inf if total is None else total
            return Schedule(self.n, self.every_n_train_steps, end, base=True, forward=True)
        affordable = self.budget * PASSES * images_per_step / self.steps  # samples for each step of training
        if total is None:
            return Schedule(self.n, max(1, round(self.n / affordable)), base=True)
        count = int(affordable * total / self.n)
        if count == 0:
            n = int(affordable * total)
            return Schedule(n if n >= MIN_IMAGES_FOR_KD else 0, total, total)
        base = count >= 3
        return Schedule(self.n, max(1, total // (count - base)), total, base)

    def prepare(self, trainer: Trainer, data: ImageDataModule, images_per_step: int, total: int | None) -> None:
        """Load the network and set the schedule, before training for `total` steps (None: without an end).

        Raises UserError if the network cannot be loaded, or callbacks.best.monitor will not be measured.
        """
        self.schedule = self.make_schedule(total, images_per_step)
        if self.schedule.n and len(distinct_train_rows(data)) < 2:
            say("Evaluation skipped: memorization needs at least two distinct training images.")
            self.schedule = Schedule(0)
        if self.schedule.n:
            if not callable(self.features):
                raise UserError("callbacks.evaluate.features=null: use features=bundled, or callbacks.evaluate.n=0.")
            self.network = self.features()
        # the metric that chooses the best step must be measured
        if (monitor := find(trainer, Best).monitor) == "val_loss":
            return
        key, schedule = f"callbacks.best.monitor={monitor}", self.schedule
        if self.network is None or (total is not None and schedule.count(total) - schedule.is_due(0) < 2):
            raise UserError(
                f"{key} needs two measurements to choose between, and this run would make fewer: set "
                "callbacks.evaluate.every_n_train_steps (and .n) to numbers."
            )
        least = {"fd": self.network.dim + 1, "kd": MIN_IMAGES_FOR_KD, "coverage": MIN_IMAGES_FOR_PRECISION}[monitor]
        if min(n_real := len(reference_rows(data)[0]), schedule.n) < least:
            raise UserError(
                f"{key} needs {least} images, and there are {n_real} real and {schedule.n} generated ones: raise "
                "callbacks.evaluate.n or data.val_fraction, or choose another callbacks.best.monitor."
            )

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        if trainer.global_step:  # the run may have been stopped before it could evaluate
            self._discard_other_features(trainer)
            self.on_step_end(trainer, module)

    def _discard_other_features(self, trainer: Trainer) -> None:
        """Discard what was measured with other features before the run was resumed."""
        if self.network is None or not self.history:
            return
        if self.history[-1]["features_digest"] != digest_in_records(self.network):
            self.history = []
            if (best := find(trainer, Best)).monitor != "val_loss":
                best.forget()
            say("The features have changed: earlier evaluations, and a best step chosen by them, are discarded.")

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        step, done = trainer.global_step, [row["step"] for row in self.history]
        base_weights = find(trainer, BaseModel).weights
        if self.schedule.is_due(0) and 0 not in done and base_weights:
            with applied(module, base_weights):
                self._evaluate(trainer, module, 0)
        if self.schedule.is_due(step) and step not in done:
            find(trainer, Validation).measure(trainer, module)
            with applied(module, find(trainer, EMA).ema_weights):
                self._evaluate(trainer, module, step)

    def record_at(self, trainer: Trainer, module: TrainingModule, step: int) -> dict | None:
        """Return the record of a step, whose weights are applied; evaluate it now, in this process alone, if necessary.

        None if nothing is evaluated.
        """
        if self.schedule.n and step and step not in [row["step"] for row in self.history]:
            self._evaluate(trainer, module, step, alone=True)
        return next((row for row in self.history if row["step"] == step), None)

    def _evaluate(self, trainer: Trainer, module: TrainingModule, step: int, alone: bool = False) -> None:
        with find(trainer, Clock).paused():
            # 1. The record
            if self.reference is None:
                self.reference = self._make_reference(trainer, module, alone)
            images = self._generate(trainer, module, alone)
            with stage("evaluation features"):
                evaluation = self.reference.evaluate(images)
            row = {"step": step, **evaluation.record}
            if not alone:
                row = trainer.strategy.broadcast(row)  # its last bits may differ, and with them the best step
            if step and not alone:
                for name in LOWER_IS_BETTER.keys() & row.keys():
                    find(trainer, Best).update(name, step, row[name])
            # 2. What is printed, logged and written
            for why in () if self.history else evaluation.record["notes"]:
                say(why)
            say(f"step {step}: {evaluation.summary()}")
            self.history = sorted([*self.history, row], key=lambda other: other["step"])
            if trainer.is_global_zero:
                grid = self.reference.nearest_grid(evaluation, images, self.n_nearest)
                pixels.save_png(grid, self.run_dir / "nearest" / f"step_{step:06d}.png")
                metrics = {f"samples_evaluation/{name}": value for name, value in evaluation.metrics.items()}
                log_metrics(trainer, metrics, step)
                log_image(trainer, "samples_nearest", grid, step)

    def _make_reference(self, trainer: Trainer, module: TrainingModule, alone: bool) -> ReferenceFeatures:
        """Features of the data: the first process computes them, the others read them from the cache."""
        assert self.network is not None  # loaded by prepare
        is_first = trainer.is_global_zero
        if not is_first:
            trainer.strategy.barrier()
        reference = ReferenceFeatures(self.network, trainer.datamodule, module.device)
        if is_first and not alone:
            trainer.strategy.barrier()
        return reference

    def _generate(self, trainer: Trainer, module: TrainingModule, alone: bool) -> torch.Tensor:
        """Generate uint8 [n, C, H, W] on the CPU, image i from seed + i; unless `alone`, processes divide the work."""
        n, (rank, processes) = self.schedule.n, (0, 1) if alone else (trainer.global_rank, trainer.world_size)
        own = [i % n for i in range(rank, -(-n // processes) * processes, processes)]
        cond = None
        if (conditioner := module.denoiser.conditioner) is not None:
            batch = trainer.datamodule.validation_batch(n)
            cond = batches.rows(batches.from_batch(batch, conditioner), [i % len(batch) for i in own])
        how = (self.scheduler, self.steps, "evaluation samples", self.batch_size)
        images = generate(trainer, module, [self.seed + i for i in own], cond, *how)
        if processes > 1:
            gathered = module.all_gather(images)
            assert isinstance(gathered, torch.Tensor)  # all_gather of a tensor is a tensor
            images = gathered.transpose(0, 1).flatten(0, 1)[:n]
        return images.cpu()
