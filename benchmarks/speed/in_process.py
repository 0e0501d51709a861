"""What only shows from inside: the data path alone, waiting for it, and what surrounds the bare step."""

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
from chrysalis.training.module import FineTuning

DATA_SIZE, DATA_BATCH, DATA_SECONDS, DATA_RUNS, DATA_TARGET = 256, 8, 1.0, 5, 5000
LEFT_OUT = 4  # of a fit's steps: the base model is evaluated and sampled from after the first
WAITING_TARGET = 1.0  # per cent
GROUP, GROUPS, OVERHEAD_TARGET = 2, 14, 1.03
FETCHING = "[_TrainingEpochLoop].train_dataloader_next"


def data(bench: Bench) -> Row:
    """Batches as training gets them, mirrored and all, and nothing done with them."""
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


class Paired(Callback):
    """The last of the callbacks: times groups of steps, and after each the same number of bare ones.

    Bare: a copy of the denoiser, its own optimizer, the group's own batches, and nothing around them. In turns so
    short, what else happens on the machine happens to both.
    """

    def __init__(self) -> None:
        self.whole: list[float] = []  # seconds a step, of each group
        self.bare: list[float] = []
        self._batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_index: int) -> None:
        self._batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if trainer.global_step == LEFT_OUT:
            self._denoiser = copy.deepcopy(module.denoiser)
            self._params = [p for p in self._denoiser.parameters() if p.requires_grad]
            self._optimizer = module.make_optimizer([{"params": self._params}])
            self._bare_group(trainer)  # discarded: the optimizer's state is made in it
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


def fit(bench: Bench, steps: int, profiler: SimpleProfiler, paired: Paired) -> None:
    """What train.py does, with its own configuration: every default callback, the logger, the export."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    run_dir = bench.scratch / "runs" / f"fit{len(list((bench.scratch / 'runs').glob('fit*')))}"
    run_dir.mkdir(parents=True)
    overrides = ["data=folder", "data.resize=stretch", f"data.image_size={bench.image_size}", "data.batch_size=8"]
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
    module = FineTuning(denoiser, instantiate(cfg.optimizer), instantiate(cfg.lr_schedule), cfg.condition.lr_multiplier)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    record = {"command": "bench", "settings": {}, "started": time.time(), "origin": model.origin, "merge": True}
    callbacks += [instantiate(cfg.export)(**record), paired]
    trainer = instantiate(cfg.trainer)(callbacks=callbacks, logger=instantiate(cfg.logger), profiler=profiler)
    hardware.tune(denoiser.unet, bench.device, trainer.precision, cfg.channels_last)
    trainer.fit(module, datamodule=images)


@cache
def measured(bench: Bench) -> tuple[Paired, list[float]]:
    """One run for both rows, and how many seconds it waited for each batch after the first few."""
    warm(bench)
    paired, profiler = Paired(), SimpleProfiler()
    with in_scratch(bench):
        fit(bench, LEFT_OUT + bench.runs(GROUPS) * GROUP, profiler, paired)
    return paired, profiler.recorded_durations[FETCHING][LEFT_OUT:]


def waiting(bench: Bench) -> Row:
    row = Row("waiting", "time that training waits for data", "%", WAITING_TARGET, at_least=False)
    paired, fetching = measured(bench)
    row.ours = [100 * statistics.mean(fetching) / statistics.mean(paired.whole)]
    row.notes = {"ms a batch": 1000 * statistics.median(fetching)}
    return row


def overhead(bench: Bench) -> Row:
    """In turns: Lightning with logger, callbacks, EMA and data loading; the bare step."""
    row = Row("overhead", "a whole training step beside its bare torch (left)", "ms", OVERHEAD_TARGET, at_least=False)
    paired, _ = measured(bench)
    row.ours, row.plain = ([1000 * seconds for seconds in taken] for taken in (paired.whole, paired.bare))
    return row


@contextmanager
def in_scratch(bench: Bench):
    """Lightning writes nothing elsewhere, but what it would goes where everything is removed."""
    here = Path.cwd()
    os.chdir(bench.scratch)
    try:
        yield
    finally:
        os.chdir(here)
