"""The three sides, each a process of its own, which take turns in a folder that is removed afterwards."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chrysalis.data.sources.folder import FolderSource
from chrysalis.system.files import REPOSITORY
from chrysalis.system.terminal import say

NEVER = 1_000_000  # steps
# What the recorded results were measured with, and the least evaluation and sampling: the clock excludes them, but the
# process takes longer with them.
QUIET = (
    "weighting=min_snr",
    "optimizer.lr=5e-4",
    "data.batch_size=8",
    f"callbacks.validation.every_n_train_steps={NEVER}",
    "callbacks.validation.n_images=2",
    "callbacks.validation.timesteps=2",
    f"callbacks.samples.every_n_train_steps={NEVER}",
    "callbacks.samples.n=1",
    "callbacks.samples.steps=1",
    "callbacks.evaluate.n=0",
)


class SideFailed(Exception):
    """A side failed; the message is its last line."""


@dataclass(frozen=True)
class Ours:
    """A finished `train.py`: its results.json, its run folder, and the start time of the process."""

    results: dict
    folder: Path
    started: float


@dataclass(eq=False)
class Bench:
    """Runs of the three sides. device: cpu | cuda. model: the diffusers folder that all start from. data: images.

    scratch: the temporary working folder. cache: the user's own cache folder, for files that are created once.
    image_size: of training. quick: a few steps per run, to try the program itself.
    """

    device: str
    model: str
    data: str
    scratch: Path
    cache: Path
    image_size: int = 64
    eps_model: str | None = None
    quick: bool = False
    turns: list[tuple[dict, dict, dict]] = field(default_factory=list)  # see training.turns
    _runs: int = 0

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def steps(self, n: int) -> int:
        return min(n, 6) if self.quick else n

    def runs(self, n: int) -> int:
        return 1 if self.quick else n

    def repeat(self, n: int, budget: float) -> Iterator[int]:
        """Yield 0, 1, ... n - 1; after the second only as long as another one fits in `budget` seconds."""
        began = time.perf_counter()
        for i in range(self.runs(n)):
            if i < 2 or (time.perf_counter() - began) * (i + 1) / i <= budget:
                yield i

    def view(self, name: str = "all", included: Callable[[Path], bool] = lambda file: True) -> Path:
        """Create a folder of links to the images of ours, for the baselines, which read every file in a folder."""
        folder = self.scratch / f"view-{name}"
        if not folder.is_dir():
            folder.mkdir()
            for i, row in enumerate(FolderSource(self.data).rows):
                if included(row.file):
                    (folder / f"{i:06d}{row.file.suffix}").symlink_to(row.file.absolute())
        return folder

    def plain(self, what: str, **options) -> dict:
        """Run the plain loop; options by name, `image_size` for --image-size."""
        return self._peer(f"plain {what}", [str(REPOSITORY / "benchmarks" / "plain_loop.py"), what], options)

    def script(self, **options) -> dict:
        """Run what diffusers' script does; options by name."""
        return self._peer("diffusers' script", ["-m", "benchmarks.diffusers_script"], options)

    def _peer(self, name: str, command: list[str], options: Mapping) -> dict:
        given = {"model": self.model, "device": self.device, **options}
        words = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        return json.loads(self._process(name, [*command, *words]).strip().splitlines()[-1])

    def ours(self, *overrides: str) -> Ours:
        """Run train.py on these images, on this device."""
        self._runs += 1
        name, started = f"run{self._runs}", time.time()
        own = ["data=folder", f"data.path={self.data}", "data.resize=stretch", f"data.image_size={self.image_size}"]
        own = [] if any(word.startswith("data=") for word in overrides) else own
        words = [f"name={name}", f"trainer.accelerator={self.device}", *own, *overrides]
        self._process("train.py", [str(REPOSITORY / "train.py"), *words])
        folder = self.scratch / "runs" / name
        return Ours(json.loads((folder / "results.json").read_text(encoding="utf-8")), folder, started)

    def train(self, *overrides: str) -> Ours:
        """Run train.py from this model, with training alone."""
        return self.ours(f"model.pretrained={self.model}", *QUIET, *overrides)

    def program(self, name: str, *arguments: str) -> float:
        """Run train.py or sample.py; returns its wall seconds."""
        began = time.perf_counter()
        self._process(f"{name} {' '.join(arguments)}", [str(REPOSITORY / name), *arguments])
        return time.perf_counter() - began

    def environment(self) -> Mapping[str, str]:
        """The caller's environment without the hub, in which `python -m benchmarks...` works from any folder."""
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
        return {**os.environ, **own} | ({} if self.on_gpu else {"CUDA_VISIBLE_DEVICES": ""})

    def _process(self, what: str, command: list[str]) -> str:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], cwd=self.scratch, env=self.environment(), capture_output=True, text=True
        )
        say(f"  {what}: {time.perf_counter() - began:.1f} s")
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise SideFailed(f"{what} ended with {done.returncode}: {last[:300]}")
        return done.stdout
