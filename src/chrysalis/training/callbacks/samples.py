"""Images during training: the first training images, then sample grids from fixed seeds, the base model's first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.diffusion import seeds
from chrysalis.sampling import schedulers
from chrysalis.sampling.grids import enlarged_table
from chrysalis.sampling.loop import sample
from chrysalis.system import memory
from chrysalis.system.ranges import From1To1000, Positive, Seed, Steps
from chrysalis.system.terminal import stage
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.ema import EMA, BaseModel, applied
from chrysalis.training.callbacks.progress import Clock
from chrysalis.training.logger import log_image
from chrysalis.training.module import eval_mode


def generate(
    trainer: Trainer,
    module: TrainingModule,
    image_seeds: Sequence[int],
    cond: dict | None,
    scheduler: str,
    steps: int,
    what: str,
    batch_size: int | None = None,
) -> torch.Tensor:
    """Generate uint8 [n, C, H, W] on the module's device, with the weights that it has now.

    image_seeds, cond: one for each image. what: the stage on screen. batch_size: None for all at once.
    """
    n, stepper = len(image_seeds), schedulers.build(module.denoiser.scheduler, scheduler)
    with find(trainer, Clock).paused(), eval_mode(trainer, module), stage(what, n * steps) as progress:

        def chunk(places: slice) -> torch.Tensor:
            part = None if cond is None else batches.to_device(batches.rows(cond, range(n)[places]), module.device)
            given = (seeds.generators(image_seeds[places]), trainer.datamodule.size, part, progress.advance)
            return module.denoiser.codec.decode(sample(module.denoiser, stepper, steps, *given))

        return memory.in_batches(chunk, n, batch_size or n, module.device)


class GridLayout:
    """The images of a sample grid; for a conditional model, a row for each label or caption of validation images.

    names: the rows' names. columns: images in each. labels: the rows' class labels; None without that condition.
    cond: the conditions of all images, row by row; None: unconditional. representatives: indices of the images that
    stand for all, the first eight or the first of each row.
    """

    def __init__(self, data: ImageDataModule, conditioner: Conditioner | None, rows: int, n: int):
        self.names, self.columns, self.labels, self.cond = [""], n, None, None
        self.representatives = list(range(min(8, n)))
        if conditioner is None:
            return
        batch, has_labels = data.validation_batch(1000), "label" in conditioner.names
        names = [name or f"validation image {i + 1}" for i, name in enumerate(batches.captions(batch, conditioner))]
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        chosen = sorted(first.values(), key=lambda i: names[i] if has_labels else i)[:rows]
        self.names, self.columns = [names[i] for i in chosen], max(2, round(n / rows))
        if has_labels:
            self.labels = [int(batch.columns["label"][i]) for i in chosen]
        cond = batches.rows(batches.from_batch(batch, conditioner), chosen)
        self.shown = [cond[name] for name in conditioner.channels]
        self.cond = batches.rows(cond, [k for k in range(len(chosen)) for _ in range(self.columns)])
        self.representatives = list(range(0, len(chosen) * self.columns, self.columns))

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [3, h, w]: each row with its name, and with the mask or image that it is conditioned on."""
        images = pixels.as_rgb(images)
        if self.cond is None:
            return pixels.grid(images)
        rows = []
        for k, name in enumerate(self.names):
            shown = [pixels.to_uint8(values[k : k + 1]).expand(-1, 3, -1, -1) for values in self.shown]
            rows.append((name, torch.cat([*shown, images[k * self.columns : (k + 1) * self.columns]])))
        return enlarged_table(rows)


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
        n: From1To1000 = 16,
        seed: Seed = 0,
        scheduler: str = "ddim",
        steps: Steps = 40,
        preview: From1To1000 = 16,
        rows: From1To1000 = 10,
    ):
        schedulers.require_known(scheduler, "callbacks.samples.scheduler")
        self.run_dir, self.every_n_train_steps, self.n, self.seed = Path(run_dir), every_n_train_steps, n, seed
        self.scheduler, self.steps, self.preview, self.rows = scheduler, steps, preview, rows
        self.base: torch.Tensor | None = None  # the base model's images
        self.latest: tuple[int, torch.Tensor] = (-1, torch.empty(0))  # (step, images with EMA weights)

    def on_validation_images_changed(self) -> None:
        self.base = None  # whose conditions are those of other images

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self.layout = GridLayout(trainer.datamodule, module.denoiser.conditioner, self.rows, self.n)

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        if trainer.global_step == 0:
            images: list[torch.Tensor] = []  # the first images of training, flipped and cropped
            for batch in trainer.datamodule.train_dataloader():
                images.append(batch.image)
                if sum(map(len, images)) >= self.preview:
                    break
            grid = pixels.grid(pixels.as_rgb(torch.cat(images)[: self.preview]))
            self._write(trainer, grid, "training_images.png", "training_images", 0)
        elif self.base is None or not (self.run_dir / "samples" / f"step_{trainer.global_step:06d}.png").is_file():
            self.on_step_end(trainer, module)  # the run was stopped before it could

    def on_step_end(self, trainer: Trainer, module: TrainingModule) -> None:
        step = trainer.global_step
        if self.base is None:
            with applied(module, find(trainer, BaseModel).weights):
                self.base = self.generate(trainer, module)
            self._write(trainer, self.layout.grid(self.base), "samples/step_000000.png", "samples", 0)
        if step % self.every_n_train_steps == 0:
            with applied(module, find(trainer, EMA).ema_weights):
                self.latest = (step, self.generate(trainer, module))
            self._write(trainer, self.layout.grid(self.latest[1]), f"samples/step_{step:06d}.png", "samples", step)

    def _write(self, trainer: Trainer, grid: torch.Tensor, file: str, tag: str, step: int) -> None:
        if trainer.is_global_zero:
            pixels.save_sheet(grid, self.run_dir / file)
            log_image(trainer, tag, grid, step)

    def generate(self, trainer: Trainer, module: TrainingModule) -> torch.Tensor:
        """Generate uint8 [n, C, H, W] with the weights that the module has now, row by row."""
        image_seeds = [self.seed + k for k in range(self.layout.columns)] * len(self.layout.names)
        how = (self.layout.cond, self.scheduler, self.steps, "sample grid")
        return generate(trainer, module, image_seeds, *how).cpu()

    def before_and_after(self, trainer: Trainer, after: torch.Tensor, origin: str | None) -> torch.Tensor:
        """uint8 [3, h, w]: representative images of the base model and of this one, and training images below them.

        origin: what was fine-tuned; None for a model that was trained from scratch.
        """
        assert self.base is not None  # it is generated after the first step
        names = ("base model", "fine-tuned") if origin else ("untrained", "trained")
        chosen = self.layout.representatives
        images = (self.base[chosen], after[chosen], self._training_images(trainer.datamodule))
        return enlarged_table(list(zip((*names, "training images"), images, strict=True)))

    def _training_images(self, data: ImageDataModule) -> torch.Tensor:
        """One training image for each representative: of the same label if the grid has labels, else spread evenly."""
        rows, n, labels = data.train_rows, len(self.layout.representatives), self.layout.labels
        spread = list(rows[[i * len(rows) // n for i in range(n)]])
        if labels is not None:
            own = data.image_set.columns["label"][rows[::-1]]
            first = {label: row for row, label in zip(rows[::-1], own, strict=True)}
            spread = [first.get(label, row) for label, row in zip(labels, spread, strict=True)]
        return torch.from_numpy(np.stack([data.image_set.images[row] for row in spread]))
