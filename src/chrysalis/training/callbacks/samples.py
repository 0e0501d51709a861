"""Images during training: the first training images, then sample grids from fixed seeds, the base model's first."""

from pathlib import Path

import numpy as np
import torch

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.sampling import schedulers
from chrysalis.sampling.grids import legible
from chrysalis.system.ranges import NotNegative, Positive, Seed, Shown
from chrysalis.training.callbacks.base import Batch, Callback, FineTuning, Trainer, find
from chrysalis.training.callbacks.base_model import BaseModel
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.callbacks.generation import generate
from chrysalis.training.logger import log_image


class ConditionRows:
    """Conditions of validation images, one for each label or caption if there are any: the rows of a sample grid.

    names: of the rows. labels: their class labels; None where labels do not count. cond: the conditions of all images,
    row by row, `columns` in each.
    """

    def __init__(self, data: ImageDataModule, conditioner: Conditioner, rows: int, n: int):
        batch, has_labels = data.validation_batch(1000), "label" in conditioner.names
        names = [name or f"validation image {i + 1}" for i, name in enumerate(batches.captions(batch, conditioner))]
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        chosen = sorted(first.values(), key=lambda i: names[i] if has_labels else i)[:rows]
        self.names, self.columns = [names[i] for i in chosen], max(2, round(n / rows))
        self.labels = [int(batch.columns["label"][i]) for i in chosen] if has_labels else None
        cond = batches.rows(batches.from_batch(batch, conditioner), chosen)
        self.shown = [cond[name] for name in conditioner.channels]
        self.cond = batches.rows(cond, [k for k in range(len(chosen)) for _ in range(self.columns)])

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [3, h, w]: each row with its name, and with the mask or image that it is conditioned on."""
        rows = []
        for k, name in enumerate(self.names):
            shown = [pixels.to_uint8(values[k : k + 1]).expand(-1, 3, -1, -1) for values in self.shown]
            rows.append((name, torch.cat([*shown, images[k * self.columns : (k + 1) * self.columns]])))
        return legible(rows)


class Samples(Callback):
    """Generates images with the EMA weights into samples/ and the log; step 0 shows the base model.

    The grid of a conditional model has a row for each of several conditions of validation images, every row from the
    same seeds.
    """

    saved = ("base",)

    def __init__(
        self,
        run_dir: str,
        every_n_train_steps: Positive = 100,
        n: Shown = 16,
        seed: Seed = 0,
        scheduler: str = "ddim",
        steps: Positive = 40,
        preview: NotNegative = 16,
        rows: Shown = 10,
    ):
        schedulers.require_known(scheduler, "callbacks.samples.scheduler")
        self.run_dir, self.every_n_train_steps, self.n, self.seed = Path(run_dir), every_n_train_steps, n, seed
        self.scheduler, self.steps, self.preview, self.rows = scheduler, steps, preview, rows
        self.condition_rows: ConditionRows | None = None
        self.base: torch.Tensor | None = None  # the base model's images
        self.latest: tuple[int, torch.Tensor] = (-1, torch.empty(0))  # (step, images with EMA weights)

    def on_fit_start(self, trainer: Trainer, module: FineTuning) -> None:
        if (conditioner := module.denoiser.conditioner) is not None:
            self.condition_rows = ConditionRows(trainer.datamodule, conditioner, self.rows, self.n)

    def on_train_start(self, trainer: Trainer, module: FineTuning) -> None:
        if trainer.global_step == 0:
            self._write_training_images(trainer)
        elif self.base is None or not (self.run_dir / "samples" / f"step_{trainer.global_step:06d}.png").is_file():
            self._generate_if_due(trainer, module)  # the run was stopped before it could

    def on_train_batch_end(self, trainer: Trainer, module: FineTuning, outputs, batch: Batch, batch_index: int) -> None:
        self._generate_if_due(trainer, module)

    def _generate_if_due(self, trainer: Trainer, module: FineTuning) -> None:
        step = trainer.global_step
        if step and self.base is None:
            with find(trainer, BaseModel).applied(trainer, module):
                self.base = self.generate(trainer, module)
            self._write(trainer, self.base, 0)
        if step and step % self.every_n_train_steps == 0 and step > self.latest[0]:
            with find(trainer, EMA).applied(module):
                self.latest = (step, self.generate(trainer, module))
            self._write(trainer, self.latest[1], step)

    def generate(self, trainer: Trainer, module: FineTuning) -> torch.Tensor:
        """uint8 [n, 3, H, W] with the weights that the module has now; of a conditional model row by row."""
        rows = self.condition_rows
        n, times = (self.n, 1) if rows is None else (rows.columns, len(rows.names))
        image_seeds, cond = [self.seed + k for k in range(n)] * times, None if rows is None else rows.cond
        return generate(trainer, module, image_seeds, cond, self.scheduler, self.steps, "sample grid").cpu()

    @property
    def representatives(self) -> list[int]:
        """Indices of the images that stand for all: the first eight, or the first of each condition."""
        if self.condition_rows is None:
            return list(range(min(8, self.n)))
        return list(range(0, len(self.condition_rows.names) * self.condition_rows.columns, self.condition_rows.columns))

    def before_and_after(self, trainer: Trainer, after: torch.Tensor, origin: str | None) -> torch.Tensor:
        """uint8 [3, h, w]: representative images of the base model and of this one, and training images below them.

        origin: what was fine-tuned; None for a model that was trained from scratch.
        """
        assert self.base is not None  # it is generated after the first step
        names = ("base model", "fine-tuned") if origin else ("untrained", "trained")
        chosen = self.representatives
        images = (self.base[chosen], after[chosen], self._training_images(trainer.datamodule))
        return legible(list(zip((*names, "training images"), images, strict=True)))

    def _training_images(self, data: ImageDataModule) -> torch.Tensor:
        """One for each representative: with its label if the grid has labels, else spread over the set."""
        rows, n = data.train_rows, len(self.representatives)
        spread = list(rows[[i * len(rows) // n for i in range(n)]])
        labels = None if self.condition_rows is None else self.condition_rows.labels
        if labels is not None:
            own = data.image_set.columns["label"][rows[::-1]]
            first = {label: row for row, label in zip(rows[::-1], own, strict=True)}
            spread = [first.get(label, row) for label, row in zip(labels, spread, strict=True)]
        return torch.from_numpy(np.stack([data.image_set.images[row] for row in spread]))

    def _write(self, trainer: Trainer, images: torch.Tensor, step: int) -> None:
        if not trainer.is_global_zero:
            return
        grid = pixels.grid(images) if self.condition_rows is None else self.condition_rows.grid(images)
        pixels.save_sheet(grid, self.run_dir / "samples" / f"step_{step:06d}.png")
        log_image(trainer, "samples", grid, step)

    def _write_training_images(self, trainer: Trainer) -> None:
        """The first images that training will see, flipped and cropped as it sees them."""
        seen: list[torch.Tensor] = []
        for batch in trainer.datamodule.train_dataloader():
            seen.append(batch.image)
            if sum(map(len, seen)) >= self.preview:
                break
        if trainer.is_global_zero:
            grid = pixels.grid(torch.cat(seen)[: self.preview])
            pixels.save_sheet(grid, self.run_dir / "training_images.png")
            log_image(trainer, "training_images", grid, 0)
