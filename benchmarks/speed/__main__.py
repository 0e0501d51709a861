"""python -m benchmarks.speed [--only train,drawing] [--data FOLDER] [--model FOLDER] [--device cpu]

Compares this project with benchmarks/plain_loop.py on this machine, in about ten minutes on two cores: on the CPU, and
on a GPU where there is one. Both sides run in turns; figures are medians. Writes MACHINE.json and MACHINE.md into
benchmarks/results/.
"""

import argparse
import functools
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed import drawing, givens, held_out, in_process, report, training
from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench
from chrysalis import hardware
from chrysalis.data.store import cache_folder
from chrysalis.folder import BUNDLED, REPOSITORY, locate
from chrysalis.terminal import console, say

EVERYWHERE = {
    "train": training.train,
    "first-step": training.first_step,
    "drawing": drawing.drawing,
    "waiting": in_process.waiting,
    "overhead": in_process.overhead,
}
ROWS: dict[str, dict[str, Callable[[Bench], Row]]] = {
    "cpu": {
        **EVERYWHERE,
        "data": in_process.data,
        "held-out": held_out.held_out,
        "start-help": functools.partial(training.startup, name="help"),
        "start-cfg-job": functools.partial(training.startup, name="cfg-job"),
        "train-compiled": training.train_compiled,
    },
    "cuda": {**EVERYWHERE, "memory": training.memory, "matmul-share": training.matmul_share},
}


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    kept = cache_folder()
    with tempfile.TemporaryDirectory(prefix="chrysalis-bench-") as folder:
        scratch = Path(folder)
        data = options.data or givens.pictures(scratch, kept)
        os.environ["CHRYSALIS_CACHE"] = str(scratch / "cache")  # of this process too
        for device in options.devices:
            model = options.model if device == "cpu" else givens.large_model(scratch)
            size = {"cpu": 64, "cuda": 256}[device]
            bench = Bench(device, model, str(data), scratch / device, kept, size, options.eps_model, options.quick)
            bench.scratch.mkdir()
            measure(bench, options)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(name for rows in ROWS.values() for name in rows))
    parser.add_argument("--only", help=f"some rows, with commas between: {', '.join(names)}")
    parser.add_argument("--data", help="a folder of pictures; drawn butterflies without it and $CHRYSALIS_PHOTOGRAPHS")
    parser.add_argument("--model", default=BUNDLED, help="the diffusers folder that both start from on the CPU")
    parser.add_argument("--eps-model", help="of held-out: a diffusers folder whose model predicts the noise")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="only this one")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="a few steps a run: to try the program, not to measure")
    options = parser.parse_args(arguments)
    options.rows = names if options.only is None else options.only.split(",")
    if unknown := set(options.rows) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if options.data is None and (photographs := os.environ.get("CHRYSALIS_PHOTOGRAPHS")):
        options.data = str(Path(photographs, "butterflies"))
    options.data = options.data and Path(options.data).absolute()
    options.model = str(locate(options.model, "--model").absolute())
    options.eps_model = options.eps_model and str(locate(options.eps_model, "--eps-model").absolute())
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    options.devices = [options.device] if options.device else here
    words = sys.argv[1:] if arguments is None else arguments
    options.command = report.without_folders(shlex.join(["python", "-m", "benchmarks.speed", *words]))
    return options


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Row by row; each is written when it is there, and one that fails says why."""
    machine, rows, began = hardware.description(bench.device), [], time.perf_counter()
    about = {
        "commit": commit(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": options.command,
    }
    for name, figure in ROWS[bench.device].items():
        if name not in options.rows:
            continue
        say(f"{name} ({bench.device}), {time.perf_counter() - began:.0f} s so far")
        try:
            row = figure(bench)
        except Exception as error:  # a figure that cannot be had is no reason to lose the others
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            row = Row(name, name, "", 0.0, failed=report.without_folders(reason)[:300])
        rows.append(row)
        files = report.write(options.out, machine, about, [row])
    if rows:
        console.print(report.table(machine, rows))
        say(f"{time.perf_counter() - began:.0f} s; written: {' and '.join(map(str, files))}")


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain") else "")


if __name__ == "__main__":
    main()
