"""Training beside the plain loop: images a second, also compiled, seconds to the first step, memory; and --help."""

import functools
import statistics

from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench

PAIRS, STARTS = 3, 5
FIRST_STEP_PAIRS = {"cpu": 5, "cuda": 3}  # on a GPU those of the training rows
MICRO_BATCHES, WARMUP = 54, 4  # of the plain loop
STEPS = 28  # of ours: three come before its clock starts
TFLOP_AN_IMAGE = 1.49  # forward and backward of google/ddpm-celebahq-256's UNet at 256 px
TARGETS = {"train": {"cpu": 1.5, "cuda": 6.0}, "train-compiled": {"cpu": 1.7, "cuda": 6.0}}
FIRST_STEP_TARGET, START_TARGET, MATMUL_TARGET, MEMORY_TARGET = 1.2, 1.0, 0.45, 0.5


def plain_training(bench: Bench, micro_batches: int, **options) -> dict:
    loading = {"data": bench.view(), "image_size": bench.image_size, "batch_size": 4, "accumulate": 2}
    return bench.plain("train", steps=micro_batches, **{**loading, **options})


def pair(bench: Bench, micro_batches: int, steps: int) -> tuple[dict, dict]:
    """One run of each side; on a GPU ours is compiled, as training there should be."""
    plain = plain_training(bench, micro_batches, warmup=min(WARMUP, micro_batches - 1))
    return plain, ours_training(bench, steps, compiled=bench.on_gpu)


def ours_training(bench: Bench, steps: int, compiled: bool) -> dict:
    return bench.train("data.batch_size=8", f"trainer.max_steps={steps}", f"compile={str(compiled).lower()}").results


@functools.cache
def warm(bench: Bench) -> None:
    """One discarded run of each side: decoded pictures, compiled graphs and files are in their caches after it."""
    pair(bench, 2, 2)


def full_pairs(bench: Bench) -> list[tuple[dict, dict]]:
    """Those of the pairs that ran long enough for both clocks."""
    return [(plain, ours) for plain, ours in bench.pairs if ours["images_per_second"]]


def train(bench: Bench) -> Row:
    warm(bench)
    while len(full_pairs(bench)) < bench.runs(PAIRS):
        bench.pairs.append(pair(bench, bench.steps(MICRO_BATCHES), bench.steps(STEPS)))
    row = Row("train", f"training at {bench.image_size} px", "images/s", TARGETS["train"][bench.device])
    row.plain = [plain["images_per_second"] for plain, _ in full_pairs(bench)]
    row.ours = [ours["images_per_second"] for _, ours in full_pairs(bench)]
    how = ", compiled" if bench.on_gpu else ""
    row.notes = {"plain": "batch 4, accumulate 2", "ours": f"batch 8, {full_pairs(bench)[0][1]['precision']}{how}"}
    return row


def train_compiled(bench: Bench) -> Row:
    """Two runs: the first compiles, the second finds that in the cache. On a GPU `train` is compiled already."""
    base = train(bench)
    cold, again = (ours_training(bench, steps, compiled=True) for steps in (2, bench.steps(STEPS)))
    row = Row("train-compiled", f"{base.what}, compiled", "images/s", TARGETS["train-compiled"][bench.device])
    row.plain, row.ours = base.plain, [again["images_per_second"]]
    row.notes = {
        "seconds to the first step, compiling": cold["seconds_to_first_step"],
        "and from the cache": again["seconds_to_first_step"],
    }
    return row


def first_step(bench: Bench) -> Row:
    """Pairs of the training rows, and short ones until there are enough."""
    warm(bench)
    while len(bench.pairs) < bench.runs(FIRST_STEP_PAIRS[bench.device]):
        bench.pairs.append(pair(bench, 2, 1))
    row = Row("first-step", "from process start to the end of the first step", "s", FIRST_STEP_TARGET, at_least=False)
    row.plain = [plain["first_step_at_s"] for plain, _ in bench.pairs]
    row.ours = [ours["seconds_to_first_step"] for _, ours in bench.pairs]
    row.notes = {"plain": "a micro-batch of 4", "ours": "an optimizer step of 8"}
    return row


def startup(bench: Bench, name: str) -> Row:
    arguments = {"help": ["--help"], "cfg-job": ["--cfg", "job"]}[name]
    row = Row(f"start-{name}", f"`train.py {' '.join(arguments)}`", "s", START_TARGET, at_least=False)
    row.ours = [bench.program("train.py", *arguments) for _ in range(bench.runs(STARTS))]
    return row


def memory(bench: Bench) -> Row:
    """Peak memory on the GPU at batch 4, accumulated twice on both sides."""
    row = Row("memory", "peak GPU memory at batch 4", "MiB", MEMORY_TARGET, at_least=False)
    row.plain = [plain_training(bench, 4, warmup=2)["peak_gpu_mib"]]
    settings = ("data.batch_size=4", "trainer.accumulate_grad_batches=2", "trainer.max_steps=4", "compile=true")
    row.ours = [bench.train(*settings).results["peak_memory_mib"]]
    return row


def matmul_share(bench: Bench) -> Row:
    """How much of the bf16 matrix products that this GPU does in a second training makes use of."""
    row = Row("matmul-share", "share of the measured bf16 matmul rate", "", MATMUL_TARGET)
    rate = matmul_tflops()
    row.ours = [speed * TFLOP_AN_IMAGE / rate for speed in train(bench).ours]
    row.notes = {"TFLOP/s measured": rate, "TFLOP an image": TFLOP_AN_IMAGE}
    return row


def matmul_tflops(n: int = 8192, repetitions: int = 20) -> float:
    import torch

    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repetitions + 3):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        a @ b
        ended.record()
        torch.cuda.synchronize()
        seconds.append(began.elapsed_time(ended) / 1000)
    return 2 * n**3 / statistics.median(seconds[3:]) / 1e12
