"""python -m benchmarks.gpu [--device cpu] [--only bf16,train] [--out FOLDER] [--budget SECONDS]

Checks what matters on a GPU, then measures training, memory and sampling, and prints each figure once it is known.
Parts are sorted by importance; those that do not fit in the budget are skipped. Writes GPU.json into
benchmarks/results/ after every figure. The exit code is 1 if a part failed. Uses no network.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import exactness_checks, precision_checks, recovery_checks, sampling_figures, training_figures
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Budget, Part, Record, perform
from benchmarks.speed.report import commit, slug, without_folders
from chrysalis.system import hardware
from chrysalis.system.files import REPOSITORY

BUDGET = 540
PARTS = (
    Part("bf16", "training in bf16 follows float32", precision_checks.bf16, 12),
    Part("channels_last", "training in channels_last follows float32", precision_checks.channels_last, 4),
    Part("fp16", "training in float16 with a loss scale follows float32", precision_checks.fp16, 4),
    Part("scaler", "too large a loss scale is lowered, without updates until it fits", precision_checks.scaler, 4),
    Part("device-data", "images held on the device change no bit", precision_checks.device_data, 5),
    Part("out-of-memory", "a step that does not fit in memory is split", recovery_checks.out_of_memory, 8),
    Part("nonfinite", "a non-finite gradient updates nothing", recovery_checks.nonfinite, 4),
    Part("nonfinite-fp16", "non-finite gradients and losses with a loss scale", recovery_checks.nonfinite_fp16, 4),
    Part("resume", "an interrupted run resumes to the bit", exactness_checks.resume, 20),
    Part("regenerate", "a PNG is generated again to the bit", exactness_checks.regenerate, 15),
    Part("matmul", "rate of bf16 matrix products", training_figures.matmul, 3),
    Part("memory", "peak memory, measured and counted", training_figures.memory_count, 35),
    Part("train", "training the large model", training_figures.train, 20),
    Part("train-plain", "the plain loop in float32", training_figures.train_plain, 20),
    Part("sample", "sampling from the large model", sampling_figures.large, 20),
    Part("train-compiled", "training the large model, compiled", training_figures.train_compiled, 110),
    Part("compile", "compiled training follows float32", precision_checks.compiled, 45),
    Part("small-train", "training the bundled model", training_figures.small_train, 12),
    Part("small-sample", "sampling from the bundled model", sampling_figures.small, 5),
    Part("commands", "train.py with all callbacks, and its export", exactness_checks.commands, 25),
    Part("sample-plain", "the plain loop samples", sampling_figures.large_plain, 12),
    Part("small-train-plain", "the plain loop trains the bundled model", training_figures.small_train_plain, 8),
    Part("train-plain-bf16", "the plain loop with its UNet in bf16", training_figures.train_plain_bf16, 15),
    Part("sample-compiled", "sampling from the large model, compiled", sampling_figures.large_compiled, 60),
)


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> int:
    """Run the program; returns the exit code. began: the start of the budget, in time.perf_counter() seconds."""
    budget_began = time.perf_counter() if began is None else began
    options = parsed(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} finds no NVIDIA GPU here: python -m benchmarks.gpu --device cpu runs every "
            "part at a small size on the CPU.",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products
    budget = Budget(options.budget, budget_began)
    with tempfile.TemporaryDirectory(prefix="chrysalis-gpu-", ignore_cleanup_errors=True) as scratch:
        before = {name: os.environ.get(name) for name in ("CHRYSALIS_CACHE", "TORCHINDUCTOR_CACHE_DIR")}
        os.environ["CHRYSALIS_CACHE"] = str(Path(scratch, "cache"))
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(scratch, "compiled"))  # compiling is timed without a cache
        try:
            return run(options, Bench(torch.device(options.device), Path(scratch)), budget)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: every part at a small size")
    parser.add_argument("--only", help=f"some parts, separated by commas: {', '.join(names)}")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: benchmarks/results; cpu: runs/)")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"total seconds (default: {BUDGET})")
    options = parser.parse_args(arguments)
    options.parts = names if options.only is None else options.only.split(",")
    if unknown := set(options.parts) - set(names):
        parser.error(f"--only names unknown parts ({', '.join(sorted(unknown))}): choose from {', '.join(names)}")
    results = REPOSITORY / ("benchmarks/results" if options.device == "cuda" else "runs/gpu-benchmark-on-a-cpu")
    options.out = (options.out or results).absolute()
    words = sys.argv[1:] if arguments is None else arguments
    options.command = without_folders(shlex.join(["python", "-m", "benchmarks.gpu", *words]))
    return options


def run(options: argparse.Namespace, bench: Bench, budget: Budget) -> int:
    """Perform the chosen parts; returns the exit code."""
    name = hardware.description(options.device)
    path = options.out / f"{slug(name)}.json"
    record = Record(path, {"machine": name, **machine(bench)}, about(options), [part.name for part in PARTS])
    print(f"{name}, torch {torch.__version__}, {budget.left:.0f} s left of {budget.seconds:.0f}", flush=True)
    chosen = [part for part in PARTS if part.name in options.parts]
    ended = [perform(part, bench, record, budget, lambda line: print(line, flush=True)) for part in chosen]
    counts = {status: ended.count(status) for status in ("passed", "failed", "cut off", "skipped")}
    summary = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    print(f"{len(ended)} parts in {budget.used:.0f} s: {summary}; written: {path}", flush=True)
    return 1 if counts["failed"] else 0


def machine(bench: Bench) -> dict:
    """The device, for the record."""
    if not bench.on_gpu:
        return {}
    found = torch.cuda.get_device_properties(bench.device)
    return {
        "memory_gb": round(found.total_memory / 1e9, 1),
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def about(options: argparse.Namespace) -> dict:
    """This run, for the record of each of its parts."""
    when = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "command": options.command}
    return when | {"versions": hardware.versions()}
