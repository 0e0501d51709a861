"""Training runs for the parts: the project's own objects without evaluation and export, or whole commands."""

import functools
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision

from benchmarks.gpu.bench import WARMUP, Bench
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.sources.folder import folder_data
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import choose
from chrysalis.models.model import Model
from chrysalis.system import hardware
from chrysalis.system.compiling import compile_unet
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.callbacks.nonfinite import NonFinite
from chrysalis.training.callbacks.progress import Clock, Curves
from chrysalis.training.module import TrainingModule
from chrysalis.training.optimization import adamw, lr_schedule
from chrysalis.training.trainer import make_trainer


class Snapshots(Callback):
    """Keeps the weights after every optimizer step, on the device, so that nothing waits."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        self.weights.append({name: p.detach().clone() for name, p in module.trainable()})


class Peak(Callback):
    """Peak memory of tensors in bytes: `first`, in the first step with cuDNN's trials, and `steady`, afterwards.

    On a CPU both are the peak of the process.
    """

    def __init__(self) -> None:
        self.first = self.steady = 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if trainer.global_step == 1 and not self.first:
            self.first = peak(module.device)
            forget_peak(module.device)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.steady = peak(module.device)


def peak(device: torch.device) -> int:
    """Peak memory in bytes."""
    return 2**20 * hardware.peak_memory_mib(device.type)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@dataclass
class Fit:
    """A training run."""

    trainer: Trainer
    module: TrainingModule
    clock: Clock
    curves: Curves
    nonfinite: NonFinite

    def run(self, data: ImageDataModule) -> "Fit":
        self.trainer.fit(self.module, datamodule=data)
        return self

    @property
    def losses(self) -> list[float]:
        return [loss for _, loss, _ in self.curves.history]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().cpu() for name, p in self.module.denoiser.named_parameters()}

    @property
    def optimizer_steps(self) -> set[int]:
        """The distinct numbers of updates that the optimizer counts for its weights."""
        return {int(state["step"]) for state in self.trainer.optimizers[0].state.values()}

    @property
    def scaler(self) -> torch.amp.GradScaler:
        return self.trainer.precision_plugin.scaler


def images(bench: Bench, pixels: int, batch_size: int, steps: int = 0, **loading) -> ImageDataModule:
    """The synthetic images for training: enough for `steps` steps without an epoch's short last batch.

    There are a quarter more, because about a tenth of them is for validation.
    """
    path = str(bench.images(pixels, max(bench.sizes.images, 4 * batch_size, 5 * steps * batch_size // 4)))
    return folder_data(path, image_size=pixels, resize="stretch", batch_size=batch_size, **loading)


def prepared(
    bench: Bench,
    model: Model,
    data: ImageDataModule,
    steps: int,
    precision: str = "32-true",
    compiled: bool = False,
    channels_last: bool | str = "auto",
    optimizer: Callable | None = None,
    watch: Sequence[Callback] = (),
    action: str = "stop",
    scale: float | None = None,
    **trainer,
) -> Fit:
    """Build what train.py builds, with the callbacks that belong to a step and no others.

    scale: the loss scale that 16-mixed begins with. watch: more callbacks. trainer: more of Lightning's arguments.
    """
    seed_everything(0, workers=True, verbose=False)
    model.fit_to_size(data.size)
    objective = choose(model.prediction)
    model.register_objective(objective)
    denoiser = Denoiser(model.unet, model.scheduler, objective)
    module = TrainingModule(denoiser, optimizer or functools.partial(adamw, lr=5e-4), lr_schedule)
    clock, curves, nonfinite = Clock(WARMUP), Curves(), NonFinite(str(bench.scratch / "run"), action)
    settings = {"max_steps": steps, "max_epochs": -1, "devices": 1, "gradient_clip_val": 1.0, "log_every_n_steps": 1}
    taken = "bf16-mixed" if precision == "16-mixed" and not bench.on_gpu else precision  # see scaled
    settings |= {"precision": taken, "accelerator": bench.device.type, **trainer}
    lightning = make_trainer([clock, nonfinite, curves, EMA(), *watch], logger=False, **settings)
    if precision == "16-mixed":
        scaled(bench, lightning, scale)
    hardware.tune(denoiser.unet, bench.device.type, lightning.precision, channels_last)
    compile_unet(denoiser.unet, compiled)
    return Fit(lightning, module, clock, curves, nonfinite)


def fit(bench: Bench, model: Model, data: ImageDataModule, steps: int, **how) -> Fit:
    """Train: see `prepared` for the arguments."""
    return prepared(bench, model, data, steps, **how).run(data)


def scaled(bench: Bench, trainer: Trainer, scale: float | None) -> None:
    """Give 16-mixed an initial loss scale. On a CPU, where 16-mixed is refused, put it in place of bf16-mixed."""
    scaler = torch.amp.GradScaler(bench.device.type, **({} if scale is None else {"init_scale": scale}))
    if bench.on_gpu:
        trainer.precision_plugin.scaler = scaler
    else:
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)


def command(program: str, *overrides: str, code: int = 0) -> None:
    """Run train.py or sample.py in this process and folder; raises AssertionError for another exit code."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    argv, log, ended = sys.argv, io.StringIO(), 0
    sys.argv = [f"{program}.py", *overrides]
    try:
        with redirect_stderr(log):
            getattr(importlib.import_module(program), program)()
    except SystemExit as stop:
        ended = stop.code or 0
    finally:
        sys.argv = argv
        sys.stderr.write(log.getvalue())
    if ended != code:
        last = (log.getvalue().strip() or "no output").splitlines()[-1]
        raise AssertionError(f"{program}.py ended with {ended} instead of {code}: {last[:200]}")


def recipe(bench: Bench, name: str, steps: int, *overrides: str) -> list[str]:
    """Overrides for a short train.py on the synthetic images with a new UNet of the checks' size."""
    s = bench.sizes
    settings = {
        "name": name,
        "model": "scratch",
        "model.block_out_channels": list(s.channels),
        "data": "folder",
        "data.path": bench.images(s.pixels, s.images),
        "data.image_size": s.pixels,
        "data.resize": "stretch",
        "data.batch_size": s.batch,
        "trainer.accelerator": bench.device.type,
        "trainer.max_steps": steps,
        "lr_schedule": "constant",
        "callbacks.validation.n_images": 2,
        "callbacks.validation.timesteps": 2,
        "callbacks.samples.n": 1,
        "callbacks.samples.steps": 1,
        "callbacks.evaluate.n": 0,
        "export.report": "false",
        "preflight": "false",
    }
    return [*(f"{key}={value}".replace(" ", "") for key, value in settings.items()), *overrides]


def checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
