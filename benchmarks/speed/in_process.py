"""Rows measured inside one process: the data path alone, the time training waits for it, and a step's overhead."""

import copy
import os
import statistics
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks.speed.report import Row
from benchmarks.speed.sides import QUIET, Bench
from benchmarks.speed.training import warm
from chrysalis.command import CONF
from chrysalis.data import loaders
from chrysalis.data.batch import Batch
from chrysalis.data.loaders import Order, loader
from chrysalis.data.sources.folder import folder_data
from chrysalis.denoiser import Denoiser
from chrysalis.system import hardware
from chrysalis.training.module import TrainingModule

DATA_SIZE, DATA_BATCH, DATA_SECONDS, DATA_RUNS, DATA_TARGET = 256, 8, 1.0, 5, 5000
LEFT_OUT = 4  # steps before measuring: the base model is evaluated and sampled after the first
WAITING_TARGET = 1.0  # per cent
GROUP, GROUPS, OVERHEAD_TARGET = 2, 14, 1.03
FETCHING = "[_TrainingEpochLoop].train_dataloader_next"


def data(bench: Bench) -> Row:
    """Load the batches of training, mirrored, and do nothing with them."""
    row = Row("data", f"the data path alone, {DATA_SIZE} px, uint8, mirrored", "images/s", DATA_TARGET)
    source = folder_data(bench.data, image_size=DATA_SIZE, resize="stretch")
    source.setup()
    held, done = loaders.BatchDataset(source.image_set, flip=True), 0
    order = Order(source.train_rows, DATA_BATCH, seed=0, done=lambda: done)
    for _ in range(1 + bench.runs(DATA_RUNS)):  # the first fills the page cache
        images, began = 0, time.perf_counter()
        while time.perf_counter() - began < DATA_SECONDS:
            for batch in loader(held, order):
                images += len(batch)
                done += 1
        row.ours.append(images / (time.perf_counter() - began))
    row.ours = row.ours[1:]
    return row


class BareSteps(Callback):
    """The last callback: times groups of steps and, after each, the same number of bare steps.

    A bare step is a copy of the denoiser, its own optimizer and the group's own batches, and nothing else. The turns
    are short, so that other load on the machine slows both.
    """

    def __init__(self) -> None:
        self.whole: list[float] = []  # seconds per step of each group
        self.bare: list[float] = []
        self._batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_index: int) -> None:
        self._batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if trainer.global_step == LEFT_OUT:
            self._denoiser = copy.deepcopy(module.denoiser)
            self._params = [p for p in self._denoiser.parameters() if p.requires_grad]
            self._optimizer = module.make_optimizer([{"params": self._params}])
            self._bare_group(trainer)  # not counted: it creates the optimizer's state
        elif trainer.global_step > LEFT_OUT and len(self._batches) == GROUP:
            self.whole.append((time.perf_counter() - self._began) / GROUP)
            self.bare.append(self._bare_group(trainer))
        else:
            return
        self._batches.clear()
        self._began = time.perf_counter()

    def _bare_group(self, trainer: Trainer) -> float:
        began = time.perf_counter()
        for batch in self._batches:
            with trainer.precision_plugin.forward_context():
                loss = self._denoiser.loss(batch).value
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._params, 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return (time.perf_counter() - began) / len(self._batches)


def fit(bench: Bench, steps: int, profiler: SimpleProfiler, bare_steps: BareSteps) -> None:
    """Train as train.py does, with its own configuration: every default callback, the logger, the export."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    run_dir = bench.scratch / "runs" / f"fit{len(list((bench.scratch / 'runs').glob('fit*')))}"
    run_dir.mkdir(parents=True)
    overrides = ["data=folder", "data.resize=stretch", f"data.image_size={bench.image_size}"]
    overrides += ["name=bench", f"trainer.max_steps={steps}", f"trainer.accelerator={bench.device}", *QUIET]
    overrides += ["callbacks.progress.lines=0"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    cfg.run_dir, cfg.data.path, cfg.model.pretrained = str(run_dir), bench.data, bench.model
    seed_everything(cfg.seed, workers=True, verbose=False)
    model, images = instantiate(cfg.model), instantiate(cfg.data)
    objective = instantiate(cfg.objective)(model.prediction)
    model.register_objective(objective)
    denoiser = Denoiser(model.unet, model.scheduler, objective)
    optimizer, lr_schedule = instantiate(cfg.optimizer), instantiate(cfg.lr_schedule)
    module = TrainingModule(denoiser, optimizer, lr_schedule, cfg.condition.lr_multiplier)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    record = {"command": "bench", "settings": {}, "started": time.time(), "origin": model.origin, "merge": True}
    callbacks += [instantiate(cfg.export)(**record), bare_steps]
    trainer = instantiate(cfg.trainer)(callbacks=callbacks, logger=instantiate(cfg.logger), profiler=profiler)
    hardware.tune(denoiser.unet, bench.device, trainer.precision, cfg.channels_last)
    trainer.fit(module, datamodule=images)


@cache
def measured(bench: Bench) -> tuple[BareSteps, list[float]]:
    """Train once for both rows; returns its times and the seconds it waited for each batch after the first few."""
    warm(bench)
    bare_steps, profiler = BareSteps(), SimpleProfiler()
    with in_scratch(bench):
        fit(bench, LEFT_OUT + bench.runs(GROUPS) * GROUP, profiler, bare_steps)
    return bare_steps, profiler.recorded_durations[FETCHING][LEFT_OUT:]


def waiting(bench: Bench) -> Row:
    row = Row("waiting", "time that training waits for data", "%", WAITING_TARGET, at_least=False)
    bare_steps, fetching = measured(bench)
    row.ours = [100 * statistics.mean(fetching) / statistics.mean(bare_steps.whole)]
    row.notes = {"milliseconds per batch": 1000 * statistics.median(fetching)}
    return row


def overhead(bench: Bench) -> Row:
    """Alternate between Lightning with logger, callbacks, EMA and data loading, and the bare step."""
    row = Row("overhead", "a whole training step (left: bare PyTorch)", "ms", OVERHEAD_TARGET, at_least=False)
    bare_steps, _ = measured(bench)
    row.ours, row.plain = ([1000 * seconds for seconds in taken] for taken in (bare_steps.whole, bare_steps.bare))
    return row


@contextmanager
def in_scratch(bench: Bench):
    """Run in the scratch folder, so that anything Lightning writes is removed."""
    here = Path.cwd()
    os.chdir(bench.scratch)
    try:
        yield
    finally:
        os.chdir(here)
