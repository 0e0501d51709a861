"""Pictures while it learns: the first batch, then sample grids from fixed seeds, the base model's first."""

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from chrysalis import pixels, seeds
from chrysalis.callbacks.clock import of, paused
from chrysalis.callbacks.ema import EMA
from chrysalis.errors import require_whole
from chrysalis.evaluating import evaluating
from chrysalis.sampling import schedulers
from chrysalis.sampling.drawing import sample


class Pictures(Callback):
    """Draws `n` pictures (picture i from seed + i) with the averaged weights into samples/ and TensorBoard.

    At step 0 they come from the untouched base model, so that the change can be watched.
    """

    def __init__(
        self,
        run_dir: str,
        every_n_steps: int = 100,
        n: int = 16,
        seed: int = 0,
        scheduler: str = "ddim",
        steps: int = 40,
        preview: int = 16,
    ):
        for name, value in (("n", n), ("every_n_steps", every_n_steps), ("steps", steps)):
            require_whole(f"callbacks.pictures.{name}", value)
        schedulers.require_known(scheduler, "callbacks.pictures.scheduler")
        self.run_dir, self.every_n_steps, self.n, self.seed = Path(run_dir), every_n_steps, n, seed
        self.scheduler, self.steps, self.preview = scheduler, steps, preview
        self.base: torch.Tensor | None = None
        self.latest: tuple[int, torch.Tensor] = (-1, torch.empty(0))  # (step, pictures with averaged weights)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._show_first_batch(trainer)
        if self.base is None:
            self.base = self.draw(trainer, module)
            self._show(trainer, self.base, 0)
        self.latest = (0, self.base)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step > self.latest[0]:
            with of(trainer, EMA).applied(module):
                self.latest = (step, self.draw(trainer, module))
            self._show(trainer, self.latest[1], step)

    def draw(self, trainer: Trainer, module: LightningModule) -> torch.Tensor:
        """uint8 [n, 3, H, W] with the weights that the module holds now."""
        scheduler = schedulers.build(module.denoiser.scheduler, self.scheduler)
        with paused(trainer), evaluating(trainer, module):
            generators = seeds.generators(self.seed, self.n)
            return pixels.to_uint8(
                sample(module.denoiser, scheduler, self.steps, generators, trainer.datamodule.size)
            ).cpu()

    def _show(self, trainer: Trainer, images: torch.Tensor, step: int) -> None:
        if not trainer.is_global_zero:
            return
        sheet = pixels.grid(images)
        pixels.save_png(sheet, self.run_dir / "samples" / f"step_{step:06d}.png")
        if trainer.logger is not None:
            trainer.logger.experiment.add_image("samples", sheet, step)

    def _show_first_batch(self, trainer: Trainer) -> None:
        """The first pictures that training will see, flipped and cropped as it sees them."""
        data = trainer.datamodule
        seen = []
        for batch in data.train_dataloader():
            seen.append(batch.image)
            if sum(map(len, seen)) >= self.preview:
                break
        sheet = pixels.grid(torch.cat(seen)[: self.preview])
        if trainer.is_global_zero:
            pixels.save_png(sheet, self.run_dir / "first_pictures.png")
            if trainer.logger is not None:
                trainer.logger.experiment.add_image("first_pictures", sheet, 0)

    def state_dict(self) -> dict:
        return {"base": self.base}

    def load_state_dict(self, state: dict) -> None:
        self.base = state["base"]
