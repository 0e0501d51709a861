"""Losses and pixels of the main commands, recorded and compared, because a refactoring must not change them.

    python -m benchmarks.same_numbers record      record into benchmarks/results/same_numbers.json
    python -m benchmarks.same_numbers             run everything again and compare: equal to the bit, or the difference

Bits depend on the CPU, the number of threads and torch; on another machine the losses and the thumbnails of the
images are compared with the tolerances below. About twelve minutes on two cores.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = REPOSITORY / "benchmarks" / "results" / "same_numbers.json"
LOSS_TOLERANCE = 0.02  # relative, of the mean training loss of ten steps, and of the validation loss
IMAGE_TOLERANCE = 3.0  # grey levels, rms over a thumbnail

QUIET = ["export.report=false", "trainer.log_every_n_steps=1", "trainer.precision=32-true", "callbacks.evaluate.n=0"]
QUIET += [
    "callbacks.validation.n_images=32",
    "callbacks.validation.timesteps=8",
]  # explicit, so that no automatic setting changes them
TRAININGS = {
    "train": [],
    "train-label": ["experiment=label", "trainer.max_steps=50"],
    "train-text": ["experiment=text", "trainer.max_steps=50"],
}
SAMPLE = ["n=2", "seed=7", "steps=10", "trainer.precision=32-true"]
SCHEDULERS = ("ddim", "dpmpp_2m", "heun")
IMAGE = "samples/ddim-plain/seed_00007.png"
VARIANTS = {
    "plain": [],
    "guided": ["guidance=symmetry"],
    "label": ["model.pretrained=runs/train-label", "label=monarch", "guidance=cfg", "guidance.scale=2"],
    "text": ["model.pretrained=runs/train-text", "text=orange wings", "guidance=cfg", "guidance.scale=2"],
    "img2img": ["task=img2img", f"task.image={IMAGE}"],
}
SAMPLINGS = {f"{s}-{name}": [f"scheduler={s}", *how] for s in SCHEDULERS for name, how in VARIANTS.items()}


def call(program: str, arguments: list[str], folder: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, str(REPOSITORY / f"{program}.py"), *arguments]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{program}.py {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )


def trained(run: Path) -> dict:
    """Read the training loss of each step, the validation losses and the exported weights."""
    history = json.loads((run / "history.json").read_text())
    weights = {}
    for file in sorted((run / "pipeline").rglob("*.safetensors")):
        tensors = load_file(file)
        digest = hashlib.blake2b(digest_size=12)
        for name in sorted(tensors):
            digest.update(tensors[name].contiguous().numpy().tobytes())
        size = sum(t.double().abs().sum().item() for t in tensors.values())
        weights[str(file.relative_to(run / "pipeline"))] = {"digest": digest.hexdigest(), "sum": size}
    return {
        "loss": [row[1] for row in history["training"]],
        "validation": [row["ema"] for row in history["validation"]],
        "weights": weights,
    }


def sampled(folder: Path) -> dict:
    """Read each image's digest and its thumbnail of 8 x 8 pixels."""
    found = {}
    for file in sorted(folder.glob("*seed_*.png")):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
            small = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX))
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=12).hexdigest()
        found[file.name] = {"digest": digest, "thumbnail": small.reshape(-1).tolist()}
    assert found, f"no images in {folder}"
    return found


def measure(folder: Path) -> dict:
    found: dict = {"machine": {"cpu": cpu(), "torch": torch.__version__, "threads": 2}}
    for name, arguments in TRAININGS.items():
        print(name, flush=True)
        call("train", [*arguments, *QUIET, f"name={name}"], folder)
        found[name] = trained(folder / "runs" / name)
    for name, arguments in SAMPLINGS.items():
        print(name, flush=True)
        own = [] if any(a.startswith("model.pretrained=") for a in arguments) else ["model.pretrained=runs/train"]
        call("sample", [*own, *arguments, *SAMPLE, f"out=samples/{name}"], folder)
        found[name] = sampled(folder / "samples" / name)
    return found


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def differences(before: dict, now: dict) -> dict[str, tuple[bool, float, float]]:
    """{case: (equal to the bit, difference, tolerance)}: relative for losses, in grey levels for images."""
    found = {}
    for name in TRAININGS:
        a, b = before[name], now[name]
        losses = [np.asarray(x["loss"][: len(x["loss"]) // 10 * 10]).reshape(-1, 10).mean(1) for x in (a, b)]
        apart = [*np.abs(losses[1] / losses[0] - 1), abs(b["validation"][-1] / a["validation"][-1] - 1)]
        found[name] = (a == b, float(max(apart)), LOSS_TOLERANCE)
    for name in SAMPLINGS:
        a, b = before[name], now[name]
        assert a.keys() == b.keys(), name
        pairs = [(np.asarray(a[file]["thumbnail"], float), np.asarray(b[file]["thumbnail"], float)) for file in a]
        apart = max(float(np.sqrt(np.square(x - y).mean())) for x, y in pairs)
        found[name] = (all(a[file]["digest"] == b[file]["digest"] for file in a), apart, IMAGE_TOLERANCE)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        now = measure(Path(folder))
    if sys.argv[1:] == ["record"]:
        return print(f"{RECORD.write_text(json.dumps(now) + chr(10))} bytes in {RECORD}")
    before = json.loads(RECORD.read_text())
    print(f"recorded on {before['machine']}, now {now['machine']}")
    found = differences(before, now)
    for name, (equal, apart, tolerance) in found.items():
        unit = "relative" if name in TRAININGS else "grey levels"
        print(f"{name:20} {'equal to the bit' if equal else f'{apart:.2g} apart, tolerance {tolerance} ({unit})'}")
    sys.exit(any(apart > tolerance for _, apart, tolerance in found.values()))


if __name__ == "__main__":
    main()
