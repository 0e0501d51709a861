"""Where the time of a training step goes: a trace of a few steps, and the five largest costs as a table."""

import gzip
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, schedule

from chrysalis.system.errors import require_whole
from chrysalis.system.files import shown, written
from chrysalis.system.terminal import console, say
from chrysalis.training.callbacks.clock import Clock, of, paused

# The profiler's own lines on standard error are for its developers. It reads this once, when a process first uses it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# Names of operators, in words; the first that fits
WORDS = [
    (r"convolution.*backward|conv.*backward", "convolutions, backward"),
    (r"conv", "convolutions, forward"),
    (r"group_norm|layer_norm|batch_norm|GroupNorm", "normalisation"),
    (r"attention|flash|softmax", "attention"),
    (r"^aten::(mm|addmm|bmm|baddbmm|linear|matmul|addmv|mv)$|mkldnn_linear", "matrix products"),
    (r"Optimizer\.|_foreach_|_fused_adam|_fused_sgd", "optimizer and averages"),
    (r"DataLoader|data_fetch|dataloader", "waiting for data"),
    (r"_local_scalar_dense|aten::(item|nonzero)$|Synchronize", "waiting for the device"),
    (r"copy_|_to_copy|clone|contiguous|aten::(to|cat|stack|fill_|zero_|zeros|index|gather)$", "copies and casts"),
    (r"CompiledFunction|Torch-Compiled|triton|graph_", "compiled parts"),
    (r"upsample", "enlarging"),
    (r"normal_|uniform_|rand", "random numbers"),
    (r"^aten::(sum|mean|var|std|norm|linalg_vector_norm)", "sums and norms"),
    (
        r"^aten::(silu|gelu|sigmoid|add|sub|mul|div|pow|sqrt|rsqrt|exp|lerp|where|clamp|neg|addcmul|addcdiv|square)",
        "elementwise arithmetic",
    ),
]


def in_words(operator: str) -> str:
    """'aten::mkldnn_convolution' -> 'convolutions, forward'; what no pattern knows keeps its name."""
    return next((words for pattern, words in WORDS if re.search(pattern, operator)), operator.removeprefix("aten::"))


@dataclass(frozen=True)
class Cost:
    """name: in words. calls, ms: of one step. share: of the time that the step took; calls None: of no operator."""

    name: str
    calls: float | None
    ms: float
    share: float


def costs(events: Iterable, steps: int, seconds: float, on_device: bool) -> list[Cost]:
    """From a profiler's key_averages(), the largest first: time in each operator itself, not in those that it calls.

    seconds: that the steps took; what no operator accounts for is a cost too. on_device: the GPU's time instead.
    """
    sums: dict[str, list[float]] = {}
    for event in events:
        # ranges (ProfilerStep#7) hold operators and have no cost of their own; kernels are counted with their operators
        if event.is_user_annotation and not re.search(r"DataLoader|Optimizer", event.key):
            continue
        if event.key.startswith("ProfilerStep") or event.device_type != torch.autograd.DeviceType.CPU:
            continue
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        total = sums.setdefault(in_words(event.key), [0, 0.0])
        total[0], total[1] = total[0] + event.count, total[1] + own
    whole = 1e6 * seconds
    made = [Cost(name, calls / steps, us / 1000 / steps, us / whole) for name, (calls, us) in sums.items()]
    rest = max(0.0, whole - sum(us for _, us in sums.values()))
    idle = "the GPU waits" if on_device else "Python between operators"
    made.append(Cost(idle, None, rest / 1000 / steps, rest / whole))
    return sorted(made, key=lambda cost: -cost.ms)


class Profile(Callback):
    """After `wait` optimizer steps and `warmup` more, records `steps` of them into run_dir/profile/.

    The first of the callbacks, so that what the others do at the end of a recorded step belongs to the one after. It
    waits for steps without drawing or measuring, if there are any. The run's clock leaves these steps out.
    """

    def __init__(self, run_dir: str, wait: int = 5, warmup: int = 2, steps: int = 5):
        for name, value, least in (("wait", wait, 0), ("warmup", warmup, 1), ("steps", steps, 1)):
            require_whole(f"profiling.{name}", value, least=least)
        self.folder = Path(run_dir) / "profile"
        self.wait, self.warmup, self.steps = wait, warmup, steps
        self.trace: Path | None = None
        self._profiler: profile | None = None
        self._over = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._first = self._seen = trainer.global_step
        self._over = not trainer.is_global_zero
        self._begin_if_due(trainer, module, images=0)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        if self._over or trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        if self._profiler is None:
            self._begin_if_due(trainer, module, len(batch) * trainer.world_size)
            return
        if self._seen == self._last:
            self._finish(trainer, module, len(batch) * trainer.world_size)
            return
        self._profiler.step()
        if self._seen == self._last - self.steps:
            self._began = _now(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._over:
            return
        if self._profiler is not None and self._seen > self._last - self.steps:
            self._finish(trainer, module, images=0)
            return
        self._stop()
        say(
            f"profile=true: the run ended before a step was recorded, {self.wait + self.warmup} come first. "
            "Take more steps, or a smaller profiling.wait."
        )

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _begin_if_due(self, trainer: Trainer, module: LightningModule, images: int) -> None:
        """images: that the run's clock is about to count."""
        if self._over or self._seen - self._first < self.wait or not self._is_calm(trainer):
            return
        self._last = self._seen + self.warmup + self.steps
        with paused(trainer):
            clock = of(trainer, Clock)
            self._clock = clock.images + (images if clock.seconds else 0), clock.seconds
            activities = [ProfilerActivity.CPU]
            if module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            plan = schedule(wait=0, warmup=self.warmup, active=self.steps, repeat=1)
            self._profiler = profile(activities=activities, schedule=plan, acc_events=True)
            self._profiler.start()
            self._began = _now(module)

    def _is_calm(self, trainer: Trainer) -> bool:
        """Whether no callback has something to do in the steps that would be recorded, or one always has."""
        begin = self._seen + self.warmup
        rhythms = [
            c.every_n_train_steps for c in trainer.callbacks if isinstance(getattr(c, "every_n_train_steps", None), int)
        ]
        if any(n <= self.steps for n in rhythms) or self._seen - self._first >= self.wait + 200:
            return True
        return not any(step % n == 0 for n in rhythms for step in range(begin, begin + self.steps))

    def _finish(self, trainer: Trainer, module: LightningModule, images: int) -> None:
        """Write the trace and tell what it shows, of the steps so far. images: that the clock is about to count."""
        with paused(trainer):
            profiler, seconds, first = self._profiler, _now(module) - self._began, self._last - self.steps + 1
            recorded = self._seen - first + 1
            self._stop()
            self.trace = self.folder / f"steps_{first:06d}_to_{self._seen:06d}.pt.trace.json.gz"
            _write(profiler, self.trace)
            found = costs(profiler.key_averages(), recorded, seconds, module.device.type == "cuda")
            steps = f"step {first}" if recorded == 1 else f"steps {first} to {self._seen}"
            console.print(_table(found[:5], f"{steps}: {1000 * seconds / recorded:.1f} ms each", module.device.type))
            say(
                f"the trace: {shown(self.trace)}\nOpen it at https://ui.perfetto.dev, or in Chrome at chrome://tracing."
            )
            clock = of(trainer, Clock)
            counts = clock.seconds > 0  # else it has not begun, and will not count this batch either
            clock.images, clock.seconds = self._clock[0] - (images if counts else 0), self._clock[1]

    def _stop(self) -> None:
        self._over = True
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None


def _now(module: LightningModule) -> float:
    """Seconds, when the device has done what it was given so far."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def _write(profiler: profile, path: Path) -> None:
    with written(path) as partial, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        with open(plain, "rb") as source, gzip.open(partial, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)


def _table(found: list[Cost], title: str, device: str) -> Table:
    table = Table(title=f"what training costs, {title}", title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("on the GPU" if device == "cuda" else "on the CPU")
    for column in ("calls a step", "ms a step", "share"):
        table.add_column(column, justify="right")
    for cost in found:
        table.add_row(
            cost.name, "" if cost.calls is None else f"{cost.calls:.0f}", f"{cost.ms:.2f}", f"{cost.share:.0%}"
        )
    return table
