"""Pictures drawn while it learns and held against the data: distances, and whether they are copies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis import memory, pixels, seeds
from chrysalis.callbacks.best import LOWER, Best
from chrysalis.callbacks.clock import of, paused
from chrysalis.callbacks.ema import EMA
from chrysalis.callbacks.held_out import HeldOut
from chrysalis.callbacks.untouched import Untouched
from chrysalis.conditioning import batches
from chrysalis.errors import UserError, require_whole
from chrysalis.evaluating import evaluating
from chrysalis.evaluation.panel import panel
from chrysalis.evaluation.reference import Evaluation, Reference
from chrysalis.metrics.distances import KERNEL_LEAST
from chrysalis.metrics.features import Network
from chrysalis.sampling import schedulers
from chrysalis.sampling.drawing import sample
from chrysalis.terminal import say

PASSES = 3  # forward passes that a picture's training step costs: its backward pass takes as long as two


@dataclass(frozen=True)
class When:
    """Every so many of `total` steps, counted back from the last one, n pictures. base: and of the base model.

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
    """Draws `n` pictures with the averaged weights and holds them against the data, see evaluation/reference.py.

    every_n_steps: `auto` evaluates as often as takes `share` of the forward passes of training, the last step
    included, and the base model first where there are three times or more; a run too short for one evaluation of n
    pictures has one of fewer. n: 0 for never. Of a conditional model each picture is told what a held-out one is.
    """

    def __init__(
        self,
        run_dir: str,
        features: Callable[[], Network],
        n: int = 256,
        every_n_steps: int | str = "auto",
        share: float = 0.04,
        scheduler: str = "dpmpp_2m",
        steps: int = 10,
        seed: int = 100_000,
        batch_size: int = 64,
        panel: int = 8,
    ):
        require_whole("callbacks.evaluate.n", n, least=0)
        for name, value in (("steps", steps), ("batch_size", batch_size), ("panel", panel)):
            require_whole(f"callbacks.evaluate.{name}", value)
        if every_n_steps != "auto":
            require_whole("callbacks.evaluate.every_n_steps", every_n_steps)
        if not 0 < share <= 1:
            raise UserError(f"callbacks.evaluate.share={share} must be above 0 and at most 1.")
        schedulers.require_known(scheduler, "callbacks.evaluate.scheduler")
        self.run_dir, self.n, self.every_n_steps, self.share = Path(run_dir), n, every_n_steps, share
        self.scheduler, self.steps, self.seed, self.batch_size, self.panel = scheduler, steps, seed, batch_size, panel
        self.features = features
        self.history: list[dict] = []  # of each evaluated step: "step" and the figures that were not withheld
        self.latest: dict | None = None  # the record of the last one
        self.when = When(0)
        self.reference: Reference | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        a_step = trainer.datamodule.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        self.when = self.plan(trainer.estimated_stepping_batches, a_step)
        if self.when.n and len(trainer.datamodule.train_rows) < 2:
            say("Nothing is evaluated: how near a copy comes cannot be said with one picture to learn from.")
            self.when = When(0)
        self._evaluate_if_due(trainer, module)  # where a run was stopped before it could

    def plan(self, total: float, pictures_a_step: int) -> When:
        """How many pictures, and after which of `total` steps (inf: until it is stopped)."""
        if self.n == 0 or total == 0:
            return When(0)
        if self.every_n_steps != "auto":
            return When(self.n, self.every_n_steps, total, base=True, last=True)
        afford = self.share * PASSES * pictures_a_step / self.steps  # drawn pictures for each step of training
        if total == math.inf:
            return When(self.n, max(1, round(self.n / afford)), total, base=True)
        times = int(afford * total / self.n)
        if times == 0:
            n = int(afford * total)
            return When(n if n >= KERNEL_LEAST else 0, total, total)
        base = times >= 3
        return When(self.n, max(1, total // (times - base)), total, base)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self._evaluate_if_due(trainer, module)

    def _evaluate_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        step, done = trainer.global_step, [row["step"] for row in self.history]
        untouched = of(trainer, Untouched)
        if step and self.when.is_due(0) and not done and untouched.weights:
            with untouched.applied(trainer, module):
                self._evaluate(trainer, module, 0)
        if step and self.when.is_due(step) and step not in done:
            held_out = of(trainer, HeldOut)
            if held_out.history[-1][0] < step:
                held_out.measure(trainer, module)
            with of(trainer, EMA).applied(module):
                self._evaluate(trainer, module, step)

    def _evaluate(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        with paused(trainer):
            if self.reference is None:
                self.reference = self._looked_at(trainer, module)
            images = self.draw(trainer, module)
            evaluation = self.reference.hold(images)
            figures = evaluation.figures()
            self.latest = {"step": step, **evaluation.record()}
            self.history.append({"step": step, **figures})
            for name in LOWER.keys() & figures.keys():
                of(trainer, Best).hear(name, step, figures[name])
            if len(self.history) == 1:
                for why in evaluation.why:
                    say(why)
            say(f"step {step}: {evaluation.sentence()}")
            self._show(trainer, evaluation, images, step)

    def _looked_at(self, trainer: Trainer, module: LightningModule) -> Reference:
        """The first process looks at the data, the others read what it found from the cache."""
        network, first = self.features(), trainer.is_global_zero
        if not first:
            trainer.strategy.barrier()
        reference = Reference(network, trainer.datamodule, module.device)
        if first:
            trainer.strategy.barrier()
        return reference

    def draw(self, trainer: Trainer, module: LightningModule) -> torch.Tensor:
        """uint8 [n, 3, H, W], picture i from seed + i, on the CPU; each process draws its share of them."""
        scheduler = schedulers.build(module.denoiser.scheduler, self.scheduler)
        n, processes = self.when.n, trainer.world_size
        mine = [i % n for i in range(trainer.global_rank, -(-n // processes) * processes, processes)]
        told = self._told(trainer, module)
        with evaluating(trainer, module):

            def drawn(places: slice) -> torch.Tensor:
                some = mine[places]
                cond = None if told is None else batches.moved(batches.rows(told, some), module.device)
                generators = seeds.of_each(self.seed + i for i in some)
                x = sample(module.denoiser, scheduler, self.steps, generators, trainer.datamodule.size, cond)
                return pixels.to_uint8(x)

            images = memory.in_batches(drawn, len(mine), self.batch_size, module.device)
        if processes > 1:
            images = module.all_gather(images).transpose(0, 1).flatten(0, 1)[:n]
        return images.cpu()

    def _told(self, trainer: Trainer, module: LightningModule) -> dict | None:
        conditioner = module.denoiser.conditioner
        if conditioner is None:
            return None
        batch = trainer.datamodule.held_out_batch(self.when.n)
        return batches.rows(batches.of_batch(batch, conditioner), [i % len(batch) for i in range(self.when.n)])

    def _show(self, trainer: Trainer, evaluation: Evaluation, images: torch.Tensor, step: int) -> None:
        if not trainer.is_global_zero:
            return
        sheet = panel(evaluation, self.reference, images, self.panel)
        pixels.save_png(sheet, self.run_dir / "nearest" / f"step_{step:06d}.png")
        if trainer.logger is not None:
            values = {f"evaluation/{name}": value for name, value in evaluation.figures().items()}
            trainer.logger.log_metrics(values, step=step)
            trainer.logger.experiment.add_image("nearest", sheet, step)

    def state_dict(self) -> dict:
        return {"history": self.history, "latest": self.latest}

    def load_state_dict(self, state: dict) -> None:
        self.history, self.latest = list(state["history"]), state["latest"]
