"""Training rows: images per second, also compiled, and seconds to the first step; and the duration of --help."""

import functools
import statistics

from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench
from chrysalis.system import hardware

REPETITIONS, STARTS = 3, 4
BUDGET = 110  # seconds for the runs of all sides; slower machines skip the third repetition
PLAIN_STEPS, SCRIPT_STEPS, WARMUP = 32, 18, 4  # micro-batches of 4, and of 8: 112 images are timed
STEPS = 17  # optimizer steps of ours, three of them before its clock starts
WORKERS = 1  # decoding processes of the script: on two cores never slower than none
TARGET, COMPILED_TARGET, SCRIPT_TARGET = 1.5, 1.7, 1.0
FIRST_STEP_TARGET, START_TARGET = 1.2, 1.0


def plain_training(bench: Bench, micro_batches: int, **options) -> dict:
    loading = {"data": bench.view(), "image_size": bench.image_size, "batch_size": 4, "accumulate": 2}
    return bench.plain("train", steps=micro_batches, **{**loading, **options})


def script_training(bench: Bench, steps: int, **options) -> dict:
    loading = {"data": bench.view(), "image_size": bench.image_size, "batch_size": 8}
    flags = {"mixed_precision": mixed_precision(bench), "num_workers": WORKERS}
    return bench.script(steps=steps, **{**loading, **flags, **options})


def mixed_precision(bench: Bench) -> str:
    """The script's fastest precision: bf16, except on CPUs that emulate it, ten times as slowly as float32."""
    return {"bf16-mixed": "bf16", "16-mixed": "fp16"}.get(hardware.precision("auto", bench.device)[0], "no")


def ours_training(bench: Bench, steps: int, compiled: bool = False) -> dict:
    return bench.train(f"trainer.max_steps={steps}", f"compile={str(compiled).lower()}").results


@functools.cache
def warm(bench: Bench) -> None:
    """Run ours once without counting it, which fills the caches of decoded images and of the libraries' files."""
    ours_training(bench, 2)


def turns(bench: Bench) -> list[tuple[dict, dict, dict]]:
    """Run the sides in turns, once for all rows; returns the results (plain, script, ours) of each turn."""
    warm(bench)
    if not bench.turns:
        for _ in bench.repeat(REPETITIONS, BUDGET):
            plain = plain_training(bench, bench.steps(PLAIN_STEPS), warmup=WARMUP)
            script = script_training(bench, bench.steps(SCRIPT_STEPS), warmup=WARMUP)
            bench.turns.append((plain, script, ours_training(bench, bench.steps(STEPS))))
    return bench.turns


def three_columns(bench: Bench, row: Row, theirs: str, own: str) -> Row:
    """Fill a row with one figure per turn: key `theirs` of the baselines, key `own` of ours."""
    row.plain, row.script = ([turn[side][theirs] for turn in turns(bench)] for side in (0, 1))
    row.ours = [ours[own] for *_, ours in turns(bench)]
    return row


def train(bench: Bench) -> Row:
    row = Row("train", f"training at {bench.image_size} px", "images/s", TARGET, script_target=SCRIPT_TARGET)
    three_columns(bench, row, "images_per_second", "images_per_second")
    precision = mixed_precision(bench)
    row.notes = {
        "plain loop": "batch 4, accumulate 2, float32",
        "script": f"batch 8, {'float32, which is faster here than bf16' if precision == 'no' else precision}, EMA",
        "Chrysalis": f"batch 8, {turns(bench)[0][2]['precision']}, EMA",
    }
    return row


def train_compiled(bench: Bench) -> Row:
    """Measure two runs: the first compiles, the second reads the cache."""
    row = Row("train-compiled", f"training at {bench.image_size} px, compiled", "images/s", COMPILED_TARGET)
    three_columns(bench, row, "images_per_second", "images_per_second")
    uncompiled = statistics.median(row.ours)
    cold, again = (ours_training(bench, bench.steps(STEPS), compiled=True) for _ in range(2))
    row.ours = [run["images_per_second"] for run in (cold, again)]
    row.notes = {
        "speed compiled / uncompiled": statistics.median(row.ours) / uncompiled,
        "seconds to the first step, compiling": cold["seconds_to_first_step"],
        "seconds to the first step, from the cache": again["seconds_to_first_step"],
    }
    return row


def first_step(bench: Bench) -> Row:
    """Read the seconds from the runs of the training row."""
    row = Row("first-step", "from process start to the end of the first step", "s", FIRST_STEP_TARGET, at_least=False)
    three_columns(bench, row, "first_step_at_s", "seconds_to_first_step")
    row.notes = {"plain loop": "a micro-batch of 4", "script and Chrysalis": "an optimizer step of 8"}
    return row


def startup(bench: Bench, name: str) -> Row:
    arguments = {"help": ["--help"], "cfg-job": ["--cfg", "job"]}[name]
    row = Row(f"start-{name}", f"`train.py {' '.join(arguments)}`", "s", START_TARGET, at_least=False)
    row.ours = [bench.program("train.py", *arguments) for _ in range(bench.runs(STARTS))]
    return row
