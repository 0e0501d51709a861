"""python -m benchmarks.speed [--only train,sampling] [--data FOLDER] [--model FOLDER] [--table]

Compares this project on this machine's CPU with benchmarks/plain_loop.py and with what diffusers' own script does
(benchmarks/diffusers_script.py), in seven to ten minutes on two cores. All sides take turns; figures are medians.
Writes MACHINE.json and MACHINE.md into benchmarks/results/. For a GPU use benchmarks.gpu.
"""

import argparse
import functools
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed import default_images, in_process, report, sampling, training, validation
from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench
from chrysalis.data.store import cache_folder
from chrysalis.models.location import locate
from chrysalis.system import hardware
from chrysalis.system.files import REPOSITORY
from chrysalis.system.terminal import console, say

ROWS: dict[str, Callable[[Bench], Row]] = {
    "train": training.train,
    "first-step": training.first_step,
    "train-compiled": training.train_compiled,
    "sampling": sampling.sampling,
    "waiting": in_process.waiting,
    "overhead": in_process.overhead,
    "data": in_process.data,
    "validation-loss": validation.to_plain_loss,
    "validation-loss-script": validation.to_script_loss,
    "start-help": functools.partial(training.startup, name="help"),
    "start-cfg-job": functools.partial(training.startup, name="cfg-job"),
}


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    if options.table:
        print(report.tables(options.out), end="")
        return
    cache = cache_folder()
    with tempfile.TemporaryDirectory(prefix="chrysalis-bench-") as folder:
        scratch = Path(folder)
        data = options.data or default_images.images(scratch, cache)
        os.environ["CHRYSALIS_CACHE"] = str(scratch / "cache")  # this process reads images too
        bench = Bench("cpu", options.model, str(data), scratch, cache, 64, options.eps_model, options.quick)
        measure(bench, options)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some rows, separated by commas: {', '.join(ROWS)}")
    parser.add_argument("--data", help="a folder of images (default: $CHRYSALIS_PHOTOGRAPHS, else drawn butterflies)")
    parser.add_argument("--model", default="assets/moths-64", help="the diffusers folder that all sides start from")
    parser.add_argument("--eps-model", help="validation rows: a diffusers folder whose model predicts noise")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="a few steps per run: to try the program, not to measure")
    parser.add_argument("--table", action="store_true", help="print what every machine measured before, and exit")
    options = parser.parse_args(arguments)
    options.rows = list(ROWS) if options.only is None else options.only.split(",")
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"--only names unknown rows ({', '.join(sorted(unknown))}): choose from {', '.join(ROWS)}")
    if options.data is None and (photographs := os.environ.get("CHRYSALIS_PHOTOGRAPHS")):
        options.data = str(Path(photographs, "butterflies"))
    options.data = options.data and Path(options.data).absolute()
    options.model = str(locate(options.model, "--model").absolute())
    options.eps_model = options.eps_model and str(locate(options.eps_model, "--eps-model").absolute())
    words = sys.argv[1:] if arguments is None else arguments
    options.command = report.without_folders(shlex.join(["python", "-m", "benchmarks.speed", *words]))
    return options


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Measure row by row; each is written as soon as it is known, and one that fails records why."""
    name_of_machine, rows, began = machine(), [], time.perf_counter()
    about = {
        "commit": report.commit(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": options.command,
    }
    for i, name in enumerate(options.rows, start=1):
        so_far = time.perf_counter() - began
        say(f"row {i} of {len(options.rows)}, {name}; {so_far:.0f} s so far")
        try:
            row = ROWS[name](bench)
        except Exception as error:  # the other rows are measured all the same
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            row = Row(name, name, "", 0.0, failed=report.without_folders(reason)[:300])
        row.seconds = round(time.perf_counter() - began - so_far, 1)
        rows.append(row)
        files = report.write(options.out, name_of_machine, about, [row])
        say(f"  {name}: {row.seconds:.0f} s")
    console.print(report.table(name_of_machine, rows))
    say(report.summary([row.record() for row in rows]))
    say(f"{time.perf_counter() - began:.0f} s; written: {' and '.join(map(str, files))}")


def machine() -> str:
    """The CPU's name, and whether it lacks bf16, in which cloud machines of one name differ."""
    return hardware.description("cpu") + ("" if hardware.cpu_has_bf16() else " without bf16")


if __name__ == "__main__":
    main()
