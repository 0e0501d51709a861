"""Checks: a resumed run and a sample that is generated again are equal to the bit; the commands as a whole."""

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import DDPMPipeline
from PIL import Image

from benchmarks.gpu import runs
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Figure, require
from chrysalis.training.module import TrainingModule

STEPS, INTERRUPTED_IN = 6, 3  # micro-batches; two make a step


def resume(bench: Bench) -> Iterator[Figure]:
    """Compare SIGTERM inside an accumulation window, then resume=, with a run without interruption."""
    more = ["trainer.accumulate_grad_batches=2", "trainer.deterministic=true"]
    runs.command("train", *runs.recipe(bench, "whole", STEPS, *more))
    original, indices = TrainingModule.training_step, []

    def training_step(self, batch, index):
        indices.append(index)
        if len(indices) == INTERRUPTED_IN:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    with mock.patch.object(TrainingModule, "training_step", training_step):
        runs.command("train", *runs.recipe(bench, "part", STEPS, *more), code=143)
    stopped = runs.checkpoint(Path("runs/part"))["global_step"]
    yield Figure("interrupted after step", stopped)
    runs.command("train", "resume=runs/part")
    whole, part = (runs.checkpoint(Path("runs", name)) for name in ("whole", "part"))
    for what in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        _require_equal(whole[what], part[what], what)
    _require_equal(_ema_weights(whole), _ema_weights(part), "EMA")
    yield Figure("tensors equal to the bit at the end", len(whole["state_dict"]))


def _ema_weights(checkpoint: dict) -> dict:
    return next(state["ema_weights"] for state in checkpoint["callbacks"].values() if "ema_weights" in state)


def _require_equal(a, b, what: str) -> None:
    """Compare to the bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        largest = float((a.double() - b.double()).abs().max()) if a.shape == b.shape else math.inf
        require(torch.equal(a, b), f"{what} differs by up to {largest:.2g} from the run without interruption")
    elif isinstance(a, dict):
        require(a.keys() == b.keys(), f"{what} has different keys")
        for key, value in a.items():
            _require_equal(value, b[key], f"{what}.{key}")
    elif isinstance(a, list | tuple):
        require(len(a) == len(b), f"{what} has a different length")
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            _require_equal(one, other, f"{what}[{i}]")
    else:
        require(a == b, f"{what}: {a} and {b}")


def regenerate(bench: Bench) -> Iterator[Figure]:
    """Generate PNG files again from their own records, in float32 and in the automatic precision."""
    fixed = [
        f"model.pretrained={bench.small_folder}",
        f"trainer.accelerator={bench.device.type}",
    ]
    settings = {"ddim": ["scheduler=ddim", "steps=4"]}
    settings["deis_auto"] = ["scheduler=deis", "steps=5", "trainer.precision=auto"]
    settings["dpmpp_2m_sde"] = ["scheduler=dpmpp_2m_sde", "steps=4"]
    for name, words in settings.items():
        runs.command("sample", *fixed, *words, f"out={name}", "seed=7", "n=3", "batch_size=2")
        runs.command("sample", f"from={name}/seed_00008.png", f"out={name}_again")
        found = sorted(Path(f"{name}_again").glob("seed_*.png"))
        require(bool(found), f"{name}: nothing was generated again")
        for file in found:
            first, again = (np.asarray(Image.open(path)) for path in (Path(name, file.name), file))
            largest = np.abs(first.astype(int) - again).max()
            require(largest == 0, f"{name}: {file.name} differs by up to {largest} of 255 when generated again")
        yield Figure(f"equal to the bit, {name}", len(found))


def commands(bench: Bench) -> Iterator[Figure]:
    """Run the default recipe with all callbacks, shortened; stock diffusers samples from its export."""
    s, steps = bench.sizes, bench.sizes.steps
    options = {
        "name": "command",
        "model.pretrained": bench.small_folder,
        "data": "folder",
        "data.path": bench.images(s.small_pixels, 2 * s.images),
        "data.image_size": s.small_pixels,
        "data.batch_size": s.batch,
        "trainer.accelerator": bench.device.type,
        "trainer.max_steps": steps,
        "callbacks.validation.n_images": 2,
        "callbacks.validation.every_n_train_steps": steps // 2,
        "callbacks.samples.n": 2,
        "callbacks.samples.steps": 4,
        "callbacks.evaluate.n": 32,
        "callbacks.evaluate.every_n_train_steps": steps,
        "export.report": "false",
        "preflight": "false",
    }
    runs.command("train", *(f"{key}={value}" for key, value in options.items()))
    results = json.loads(Path("runs/command/results.json").read_text(encoding="utf-8"))
    loss = results["val_loss"]
    yield Figure("validation loss at the end", loss)
    require(math.isfinite(loss) and results["steps"] == steps, f"{results['steps']} steps, validation loss {loss}")
    stock = DDPMPipeline.from_pretrained("runs/command/pipeline", local_files_only=True).to(bench.device)
    stock.set_progress_bar_config(disable=True)
    images = stock(batch_size=1, num_inference_steps=4, output_type="np").images
    require(bool(np.isfinite(images).all()), "the samples of stock diffusers are not finite")
