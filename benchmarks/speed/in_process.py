"""What only shows from inside: the data path alone, the time a run waits for it, and what surrounds the bare step."""

import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks.speed.report import Row
from benchmarks.speed.sides import QUIET, Bench
from chrysalis import datamodule, hardware
from chrysalis.batch import Batch
from chrysalis.command import CONF
from chrysalis.compiling import compile_unet
from chrysalis.data import loaders
from chrysalis.data.loaders import Order, loader
from chrysalis.denoiser import Denoiser
from chrysalis.module import FineTuning

DATA_SIZE, DATA_BATCH, DATA_SECONDS, DATA_RUNS, DATA_TARGET = 256, 8, 1.0, 5, 5000
LEFT_OUT = 4  # of a fit's steps: the base model is measured and drawn with after the first
WAITING_STEPS, WAITING_TARGET = 40, 1.0  # per cent
BLOCK, BLOCKS, OVERHEAD_TARGET = 20, 3, 1.03
FETCHING = "[_TrainingEpochLoop].train_dataloader_next"


def data(bench: Bench) -> Row:
    """Batches as training gets them, mirrored and all, and nothing done with them."""
    row = Row("data", f"the data path alone, {DATA_SIZE} px, uint8, mirrored", "images/s", DATA_TARGET)
    source = datamodule.folder(bench.data, image_size=DATA_SIZE, resize="stretch")
    source.setup()
    held, done = loaders.Pictures(source.pictures, flip=True), 0
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


class Ticks(Callback):
    """The last of the callbacks: when each step was over, and the batches it was made of."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_index: int) -> None:
        if len(batch) == trainer.datamodule.batch_size:
            self.batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if len(self.at) in (LEFT_OUT - 1, trainer.max_steps - 1):
            synchronise()  # a GPU is waited for at both ends of what is timed, and not between
        self.at.append(time.perf_counter())


@dataclass
class Fit:
    """A finished run: its parts, and when each of its steps was over."""

    trainer: Trainer
    module: FineTuning
    ticks: Ticks


def pace(at: list[float], on_gpu: bool) -> float:
    """Seconds a step: the median where a step is over when it says so, the mean on a GPU, which is behind that."""
    at = at[LEFT_OUT - 1 :]
    return (at[-1] - at[0]) / (len(at) - 1) if on_gpu else statistics.median(b - a for a, b in pairwise(at))


def fit(bench: Bench, steps: int, profiler: SimpleProfiler | None = None) -> Fit:
    """What train.py does, with its own configuration: every default callback, the logger, the outcome."""
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
    model, pictures = instantiate(cfg.model), instantiate(cfg.data)
    objective = instantiate(cfg.objective)(model.prediction)
    denoiser = Denoiser(model.unet, model.trained_for(objective), objective)
    module = FineTuning(denoiser, instantiate(cfg.optimizer), instantiate(cfg.lr_schedule), cfg.condition.new_lr)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    record = {"command": "bench", "settings": {}, "started": time.time(), "origin": model.origin, "merge": True}
    callbacks += [instantiate(cfg.outcome)(**record), ticks := Ticks()]
    also = {} if profiler is None else {"profiler": profiler}
    trainer = instantiate(cfg.trainer)(callbacks=callbacks, logger=instantiate(cfg.logger), **also)
    hardware.tune(denoiser.unet, bench.device, trainer.precision, cfg.channels_last)
    compile_unet(denoiser.unet, bench.on_gpu)
    trainer.fit(module, datamodule=pictures)
    return Fit(trainer, module, ticks)


@cache
def warm_fit(bench: Bench) -> None:
    """Discarded: it decodes, and compiles on a GPU."""
    fit(bench, LEFT_OUT + 2)


def bare_step_seconds(bench: Bench, done: Fit, steps: int) -> float:
    """The same batches through the same denoiser and optimizer, and nothing around them."""
    module, batches, at = done.module.to(bench.device), done.ticks.batches, []
    params = [p for _, p in module.trainable()]
    optimizer = module.make_optimizer([{"params": params}])
    module.train()
    for i in range(steps):
        with done.trainer.precision_plugin.forward_context():
            loss = module.denoiser.loss(batches[i % len(batches)]).value
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if i in (LEFT_OUT - 1, steps - 1):
            synchronise()
        at.append(time.perf_counter())
    return pace(at, bench.on_gpu)


def waiting(bench: Bench) -> Row:
    row = Row("waiting", "time that training waits for data", "%", WAITING_TARGET, at_least=False)
    with in_scratch(bench):
        warm_fit(bench)
        profiler = SimpleProfiler()
        done = fit(bench, bench.steps(WAITING_STEPS), profiler)
    at, fetching = done.ticks.at[LEFT_OUT - 1 :], profiler.recorded_durations[FETCHING]
    row.ours = [100 * sum(fetching[LEFT_OUT : len(done.ticks.at)]) / (at[-1] - at[0])]
    row.notes = {"ms a batch": 1000 * statistics.median(fetching[LEFT_OUT:])}
    return row


def overhead(bench: Bench) -> Row:
    """Blocks of both in turns: Lightning with logger, callbacks, EMA and data loading; the bare step."""
    row = Row("overhead", "a whole training step beside its bare torch (left)", "ms", OVERHEAD_TARGET, at_least=False)
    with in_scratch(bench):
        warm_fit(bench)
        for _ in range(bench.runs(BLOCKS)):
            done = fit(bench, LEFT_OUT + bench.steps(BLOCK))
            row.ours.append(1000 * pace(done.ticks.at, bench.on_gpu))
            row.plain.append(1000 * bare_step_seconds(bench, done, LEFT_OUT + bench.steps(BLOCK)))
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


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
