"""Images while it learns: the first batch, then sample grids from fixed seeds, the base model's first."""

from pathlib import Path

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.diffusion import seeds
from chrysalis.sampling import schedulers
from chrysalis.sampling.generation import sample
from chrysalis.sampling.grids import legible
from chrysalis.system import memory
from chrysalis.system.errors import require_whole
from chrysalis.system.terminal import stage
from chrysalis.training.callbacks.base_model import BaseModel
from chrysalis.training.callbacks.clock import of, paused
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.eval_mode import evaluating


class Examples:
    """Conditions of validation images, one of each label or caption where they have such: the rows of a sheet.

    names: of the rows. labels: their numbers, or None where labels do not count. cond: of all images, row by row,
    `columns` in each.
    """

    def __init__(self, data, conditioner: Conditioner, rows: int, n: int):
        batch = data.validation_batch(1000)
        names = [name or f"held out {i + 1}" for i, name in enumerate(batches.captions(batch, conditioner))]
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        chosen = sorted(first.values(), key=lambda i: names[i] if "label" in conditioner.names else i)[:rows]
        self.names, self.columns = [names[i] for i in chosen], max(2, round(n / rows))
        self.labels = [int(batch.label[i]) for i in chosen] if "label" in conditioner.names else None
        told = batches.rows(batches.from_batch(batch, conditioner), chosen)
        self.shown = [told[name] for name in conditioner.channels]
        self.cond = batches.rows(told, [k for k in range(len(chosen)) for _ in range(self.columns)])

    def sheet(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [3, h, w]: each row with its name, and with the image that it is told, if there is one."""
        rows = []
        for k, name in enumerate(self.names):
            told = [pixels.to_uint8(shown[k : k + 1]).expand(-1, 3, -1, -1) for shown in self.shown]
            rows.append((name, torch.cat([*told, images[k * self.columns : (k + 1) * self.columns]])))
        return legible(rows)


class Samples(Callback):
    """Draws `n` images (image i from seed + i) with the EMA weights into samples/ and TensorBoard.

    Those of step 0 come from the untouched base model, so that the change can be watched. Of a conditional model the
    sheet has a row for each of up to `rows` conditions of validation images, every row from the same seeds.
    """

    def __init__(
        self,
        run_dir: str,
        every_n_train_steps: int = 100,
        n: int = 16,
        seed: int = 0,
        scheduler: str = "ddim",
        steps: int = 40,
        preview: int = 16,
        rows: int = 10,
    ):
        for name, value in (("n", n), ("rows", rows), ("every_n_train_steps", every_n_train_steps), ("steps", steps)):
            require_whole(f"callbacks.samples.{name}", value)
        schedulers.require_known(scheduler, "callbacks.samples.scheduler")
        self.run_dir, self.every_n_train_steps, self.n, self.seed = Path(run_dir), every_n_train_steps, n, seed
        self.scheduler, self.steps, self.preview, self.rows = scheduler, steps, preview, rows
        self.examples: Examples | None = None
        self.base: torch.Tensor | None = None
        self.latest: tuple[int, torch.Tensor] = (-1, torch.empty(0))  # (step, images with EMA weights)

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if module.denoiser.conditioner is not None:
            self.examples = Examples(trainer.datamodule, module.denoiser.conditioner, self.rows, self.n)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._show_first_batch(trainer)
        elif self.base is None or not (self.run_dir / "samples" / f"step_{trainer.global_step:06d}.png").is_file():
            self._draw_if_due(trainer, module)  # where a run was stopped before it could

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self._draw_if_due(trainer, module)

    def _draw_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        if step and self.base is None:
            with of(trainer, BaseModel).applied(trainer, module):
                self.base = self.draw(trainer, module)
            self._show(trainer, self.base, 0)
        if step and step % self.every_n_train_steps == 0 and step > self.latest[0]:
            with of(trainer, EMA).applied(module):
                self.latest = (step, self.draw(trainer, module))
            self._show(trainer, self.latest[1], step)

    def draw(self, trainer: Trainer, module: LightningModule) -> torch.Tensor:
        """uint8 [n, 3, H, W] with the weights that the module holds now; of a conditional model row by row."""
        scheduler = schedulers.build(module.denoiser.scheduler, self.scheduler)
        with paused(trainer), evaluating(trainer, module), stage("sample grid") as at:
            shown, size = self.examples, trainer.datamodule.size
            own = [self.seed + k for k in range(self.n)]
            if shown is not None:
                own = [self.seed + k for _ in shown.names for k in range(shown.columns)]
            at.total = len(own) * self.steps

            def drawn(places: slice) -> torch.Tensor:
                some = range(len(own))[places]
                cond = None if shown is None else batches.to_device(batches.rows(shown.cond, some), module.device)
                how = (seeds.cpu_generators(own[places]), size, cond)
                return pixels.to_uint8(sample(module.denoiser, scheduler, self.steps, *how, advance=at.advance)).cpu()

            return memory.in_batches(drawn, len(own), len(own), module.device)

    @property
    def picked(self) -> list[int]:
        """Which of the images stand for all: the first, or the first of each condition."""
        if self.examples is None:
            return list(range(min(8, self.n)))
        return list(range(0, len(self.examples.names) * self.examples.columns, self.examples.columns))

    def before_and_after(self, trainer: Trainer, after: torch.Tensor, origin: str | None) -> torch.Tensor:
        """uint8 [3, h, w]: the picked images of the base model and of this one, and training images below them.

        origin: what was fine-tuned; None of a model that was trained from scratch.
        """
        names = ("base model", "fine-tuned") if origin else ("untrained", "trained")
        real = self._training_images(trainer.datamodule)
        picked = (self.base[self.picked], after[self.picked], real)
        return legible(list(zip((*names, "training images"), picked, strict=True)))

    def _training_images(self, data) -> torch.Tensor:
        """One for each of the picked: of its label where the sheet has labels, else from all over the set."""
        rows, n = data.train_rows, len(self.picked)
        spread = rows[[i * len(rows) // n for i in range(n)]]
        if self.examples is not None and self.examples.labels is not None:
            first = {label: row for row, label in zip(rows[::-1], data.image_set.labels[rows[::-1]], strict=True)}
            spread = [first.get(label, row) for label, row in zip(self.examples.labels, spread, strict=True)]
        return torch.from_numpy(np.stack([data.image_set.images[row] for row in spread]))

    def _show(self, trainer: Trainer, images: torch.Tensor, step: int) -> None:
        if not trainer.is_global_zero:
            return
        sheet = pixels.grid(images) if self.examples is None else self.examples.sheet(images)
        pixels.save_sheet(sheet, self.run_dir / "samples" / f"step_{step:06d}.png")
        if trainer.logger is not None:
            trainer.logger.experiment.add_image("samples", sheet, step)

    def _show_first_batch(self, trainer: Trainer) -> None:
        """The first images that training will see, flipped and cropped as it sees them."""
        data = trainer.datamodule
        seen = []
        for batch in data.train_dataloader():
            seen.append(batch.image)
            if sum(map(len, seen)) >= self.preview:
                break
        sheet = pixels.grid(torch.cat(seen)[: self.preview])
        if trainer.is_global_zero:
            pixels.save_sheet(sheet, self.run_dir / "training_images.png")
            if trainer.logger is not None:
                trainer.logger.experiment.add_image("training_images", sheet, 0)

    def state_dict(self) -> dict:
        return {"base": self.base}

    def load_state_dict(self, state: dict) -> None:
        self.base = state["base"]
