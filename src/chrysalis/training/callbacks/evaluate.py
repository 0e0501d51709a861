"""Images drawn while it learns and held against the data: distances, and whether they are copies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.conditions import batches
from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.diffusion import seeds
from chrysalis.evaluation.distances import MIN_IMAGES_FOR_KD, MIN_IMAGES_FOR_PRECISION
from chrysalis.evaluation.features import Network
from chrysalis.evaluation.reference import Evaluation, Reference, distinct_train_rows, reference_rows
from chrysalis.sampling import schedulers
from chrysalis.sampling.generation import sample
from chrysalis.system import memory
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.terminal import say, stage
from chrysalis.training.callbacks.base_model import BaseModel
from chrysalis.training.callbacks.best_step import LOWER, Best
from chrysalis.training.callbacks.clock import of, paused
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.eval_mode import evaluating

PASSES = 3  # forward passes that an image's training step costs: its backward pass takes as long as two


@dataclass(frozen=True)
class When:
    """Every so many of `total` steps, counted back from the last one, n images. base: and of the base model.

    last: count from the first step instead, and after the last one too.
    """

    n: int
    every: int = 1
    total: float = math.inf
    base: bool = False
    last: bool = False

    def is_due(self, step: int) -> bool:
        if self.n == 0 or step == 0:
            return self.n > 0 and self.base
        if self.last or self.total == math.inf:
            return step % self.every == 0 or step == self.total
        return (self.total - step) % self.every == 0 and self.total - step < self.total // self.every * self.every

    def times(self, steps: int) -> int:
        """How often in so many steps."""
        return self.is_due(0) + (-(-steps // self.every) if self.last else steps // self.every) if self.n else 0


class Evaluate(Callback):
    """Draws `n` images with the EMA weights and holds them against the data, see evaluation/reference.py.

    every_n_train_steps: `auto` evaluates as often as takes `share` of the forward passes of training, the last step
    included, and the base model first where there are three times or more; a run too short for one evaluation of n
    images has one of fewer. Once more at the end, beyond `share`, if the exported weights are of another step.
    n: 0 for never. Of a conditional model each image is told what a validation one is.
    """

    def __init__(
        self,
        run_dir: str,
        features: Callable[[], Network],
        n: int = 256,
        every_n_train_steps: int | str = "auto",
        share: float = 0.04,
        scheduler: str = "dpmpp_2m",
        steps: int = 10,
        seed: int = 100_000,
        batch_size: int = 64,
        n_nearest: int = 8,
    ):
        require_whole("callbacks.evaluate.n", n, least=0)
        for name, value in (("steps", steps), ("batch_size", batch_size), ("n_nearest", n_nearest)):
            require_whole(f"callbacks.evaluate.{name}", value)
        if every_n_train_steps != "auto":
            require_whole("callbacks.evaluate.every_n_train_steps", every_n_train_steps)
        if not 0 < share <= 1:
            raise UserError(f"callbacks.evaluate.share={share} must be above 0 and at most 1.")
        schedulers.require_known(scheduler, "callbacks.evaluate.scheduler")
        self.run_dir, self.n, self.every_n_train_steps, self.share = Path(run_dir), n, every_n_train_steps, share
        self.scheduler, self.steps, self.seed, self.batch_size = scheduler, steps, seed, batch_size
        self.n_nearest = n_nearest
        self.features = features
        self.history: list[dict] = []  # the record of each evaluated step, in their order
        self.when = When(0)
        self.network: Network | None = None
        self.reference: Reference | None = None

    def prepare(self, trainer: Trainer, data: ImageDataModule, total: float) -> None:
        """What can be known before the first of `total` steps. Raises UserError for a network that cannot be had, and
        where callbacks.best.monitor is one that will not be measured."""
        self.when = self.plan(total, data.batch_size * trainer.accumulate_grad_batches * trainer.world_size)
        if self.when.n and len(distinct_train_rows(data)) < 2:
            say("Nothing is evaluated: how near a copy comes cannot be said with one training image.")
            self.when = When(0)
        if self.when.n:
            if not callable(self.features):
                raise UserError("callbacks.evaluate.features=null: choose a network with features=, or n=0.")
            self.network = self.features()
        self._require_measured(of(trainer, Best).monitor, len(reference_rows(data)[0]))

    def _require_measured(self, monitor: str, n_real: int) -> None:
        """Of what chooses the best step."""
        if monitor == "val_loss":
            return
        asked, steps = f"callbacks.best.monitor={monitor}", self.when.total
        if not self.when.n or (steps < math.inf and self.when.times(steps) - self.when.is_due(0) < 2):
            raise UserError(
                f"{asked} needs two measurements to choose between, and this run would make fewer: set "
                "callbacks.evaluate.every_n_train_steps (and .n) to numbers."
            )
        least = {"fd": self.network.dim + 1, "kd": MIN_IMAGES_FOR_KD, "coverage": MIN_IMAGES_FOR_PRECISION}[monitor]
        if min(n_real, self.when.n) < least:
            raise UserError(
                f"{asked} takes {least} images, and there are {n_real} real and {self.when.n} drawn ones: raise "
                "callbacks.evaluate.n or data.val_fraction, or choose another figure."
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._evaluate_if_due(trainer, module)  # where a run was stopped before it could

    def plan(self, total: float, images_a_step: int) -> When:
        """How many images, and after which of `total` steps (inf: until it is stopped)."""
        if self.n == 0 or total == 0:
            return When(0)
        if self.every_n_train_steps != "auto":
            return When(self.n, self.every_n_train_steps, total, base=True, last=True)
        afford = self.share * PASSES * images_a_step / self.steps  # samples for each step of training
        if total == math.inf:
            return When(self.n, max(1, round(self.n / afford)), total, base=True)
        times = int(afford * total / self.n)
        if times == 0:
            n = int(afford * total)
            return When(n if n >= MIN_IMAGES_FOR_KD else 0, total, total)
        base = times >= 3
        return When(self.n, max(1, total // (times - base)), total, base)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self._evaluate_if_due(trainer, module)

    def _evaluate_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        step, done = trainer.global_step, [row["step"] for row in self.history]
        base_model = of(trainer, BaseModel)
        if step and self.when.is_due(0) and 0 not in done and base_model.weights:
            with base_model.applied(trainer, module):
                self._evaluate(trainer, module, 0)
        if step and self.when.is_due(step) and step not in done:
            validation = of(trainer, Validation)
            if validation.history[-1][0] < step:
                validation.measure(trainer, module)
            with of(trainer, EMA).applied(module):
                self._evaluate(trainer, module, step)

    def at(self, trainer: Trainer, module: LightningModule, step: int) -> dict | None:
        """The record of a step whose weights are applied, evaluated now if it was not before; by one process alone.
        None if nothing is evaluated."""
        there = next((row for row in self.history if row["step"] == step), None)
        if there is None and self.when.n and step:
            self._evaluate(trainer, module, step, alone=True)
            there = next(row for row in self.history if row["step"] == step)
        return there

    def _evaluate(self, trainer: Trainer, module: LightningModule, step: int, alone: bool = False) -> None:
        with paused(trainer):
            if self.reference is None:
                self.reference = self._looked_at(trainer, module, alone)
            images = self.draw(trainer, module, alone)
            with stage("evaluation features"):
                evaluation = self.reference.evaluate(images)
            row = {"step": step, **evaluation.record()}
            if not alone:
                row = trainer.strategy.broadcast(row)  # whose last bits may differ, and with them what is the best
            if not self.history:
                for why in evaluation.notes:
                    say(why)
            self.history = sorted([*self.history, row], key=lambda other: other["step"])
            for name in LOWER.keys() & row.keys():
                if step and not alone:
                    of(trainer, Best).hear(name, step, row[name])
            say(f"step {step}: {evaluation.summary()}")
            self._show(trainer, evaluation, images, step)

    def _looked_at(self, trainer: Trainer, module: LightningModule, alone: bool) -> Reference:
        """The first process looks at the data, the others read what it found from the cache."""
        first = trainer.is_global_zero
        if not first:
            trainer.strategy.barrier()
        reference = Reference(self.network, trainer.datamodule, module.device)
        if first and not alone:
            trainer.strategy.barrier()
        return reference

    def draw(self, trainer: Trainer, module: LightningModule, alone: bool = False) -> torch.Tensor:
        """uint8 [n, 3, H, W], image i from seed + i, on the CPU; each process draws its share of them."""
        scheduler = schedulers.build(module.denoiser.scheduler, self.scheduler)
        n, (rank, processes) = self.when.n, (0, 1) if alone else (trainer.global_rank, trainer.world_size)
        mine = [i % n for i in range(rank, -(-n // processes) * processes, processes)]
        told = self._told(trainer, module)
        with evaluating(trainer, module), stage("evaluation samples", len(mine) * self.steps) as at:

            def drawn(places: slice) -> torch.Tensor:
                some = mine[places]
                cond = None if told is None else batches.moved(batches.rows(told, some), module.device)
                generators = seeds.of_each(self.seed + i for i in some)
                x = sample(
                    module.denoiser, scheduler, self.steps, generators, trainer.datamodule.size, cond, at.advance
                )
                return pixels.to_uint8(x)

            images = memory.in_batches(drawn, len(mine), self.batch_size, module.device)
        if processes > 1:
            images = module.all_gather(images).transpose(0, 1).flatten(0, 1)[:n]
        return images.cpu()

    def _told(self, trainer: Trainer, module: LightningModule) -> dict | None:
        conditioner = module.denoiser.conditioner
        if conditioner is None:
            return None
        batch = trainer.datamodule.validation_batch(self.when.n)
        return batches.rows(batches.of_batch(batch, conditioner), [i % len(batch) for i in range(self.when.n)])

    def _show(self, trainer: Trainer, evaluation: Evaluation, images: torch.Tensor, step: int) -> None:
        if not trainer.is_global_zero:
            return
        sheet = self.reference.nearest_grid(evaluation, images, self.n_nearest)
        pixels.save_png(sheet, self.run_dir / "nearest" / f"step_{step:06d}.png")
        if trainer.logger is not None:
            values = {f"samples_evaluation/{name}": value for name, value in evaluation.metrics().items()}
            trainer.logger.log_metrics(values, step=step)
            trainer.logger.experiment.add_image("samples_nearest", sheet, step)

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        """Of a checkpoint from before rows were whole, only the last record is."""
        rows = [*state["history"], *filter(None, [state.get("latest")])]
        self.history = [row for row in rows if "n_samples" in row]
