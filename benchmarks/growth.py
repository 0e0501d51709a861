"""How cost grows with image size, batch size and number of images: at most in proportion.

    python -m benchmarks.growth [--only size,batch,set] [--most 1000] [--device cpu]

Every cell is one `train.py` of a few steps on random images of 16 px, which are removed afterwards. Decoding the
images and opening the decoded ones again are timed separately. Every figure is followed by its growth since the row
before and by the expected growth: that of the pixels or the images. More than 1.5 times the expected growth is flagged.
Writes benchmarks/results/growth-MACHINE.md.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.markdown import Markdown

from benchmarks.speed.report import slug
from benchmarks.speed.sides import Bench
from chrysalis.data.sources.folder import folder_data
from chrysalis.data.store import cache_folder
from chrysalis.system import hardware
from chrysalis.system.files import REPOSITORY, write_text
from chrysalis.system.terminal import console, say

TOO_MUCH = 1.5
STEPS, WARMUP, IMAGES = 6, 2, 500  # IMAGES: in the set, where another quantity grows


@dataclass(frozen=True)
class Axis:
    """One quantity that grows."""

    name: str
    unit: str
    values: tuple[int, ...]

    def cell(self, value: int) -> tuple[int, int, int]:
        """(pixels a side, batch, images in the set)"""
        return {"size": (value, 8, IMAGES), "batch": (64, value, IMAGES), "set": (64, 8, value)}[self.name]

    def expected(self, before: int, value: int, what: str) -> float:
        """Expected growth of a column from one row to the next: that of the pixels or of the images."""
        ratio = value / before
        grows = {
            "seconds an image": {"size": ratio**2},
            "peak memory, MiB": {"size": ratio**2, "batch": ratio, "set": ratio},
            "first step, s": {"size": ratio**2, "batch": ratio, "set": ratio},
            "decoding, s": {"size": ratio**2, "set": ratio},
            "opening, s": {"set": ratio},
        }
        return grows[what].get(self.name, 1.0)


AXES = (
    Axis("size", "px a side, batch 8", (32, 64, 128, 256)),
    Axis("batch", "images a batch, 64 px", (1, 2, 4, 8, 16, 32, 64)),
    Axis("set", "images in the set, 64 px, batch 8", (100, 1000, 10_000, 100_000)),
)
COLUMNS = ("images/s", "peak memory, MiB", "first step, s", "decoding, s", "opening, s")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="size,batch,set", help="some of the tables")
    parser.add_argument("--most", type=int, help="the largest value")
    parser.add_argument("--model", default="assets/moths-64")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    chosen = [axis for axis in AXES if axis.name in options.only.split(",")]
    machine, cache = hardware.description(options.device), cache_folder()
    parts = [f"{machine}, torch {torch.__version__}, {options.model}."]
    for axis in chosen:
        values = [value for value in axis.values if options.most is None or value <= options.most]
        rows = []
        for value in values:
            say(f"{axis.name} {value}")
            with tempfile.TemporaryDirectory(prefix="chrysalis-growth-") as scratch, own_cache(Path(scratch)):
                bench = Bench(options.device, options.model, str(Path(scratch, "images")), Path(scratch), cache)
                rows.append(measured(bench, *axis.cell(value)))
        parts.append(table(axis, values, rows))
    page = options.out / f"growth-{slug(machine)}.md"
    write_text(page, "\n\n".join(parts) + "\n")
    console.print(Markdown("\n\n".join(parts)))
    say(f"written: {page}")


@contextmanager
def own_cache(scratch: Path) -> Iterator[None]:
    before = os.environ.get("CHRYSALIS_CACHE")
    os.environ["CHRYSALIS_CACHE"] = str(scratch / "cache")
    try:
        yield
    finally:
        os.environ.pop("CHRYSALIS_CACHE") if before is None else os.environ.update(CHRYSALIS_CACHE=before)


def write_images(folder: Path, n: int) -> None:
    """Write random BMP files of 16 px: small and fast."""
    folder.mkdir()
    sample = folder / "sample.bmp"
    Image.new("RGB", (16, 16)).save(sample)
    head = sample.read_bytes()[:-768]
    sample.unlink()
    rng = np.random.default_rng(0)
    for i in range(n):
        (folder / f"{i:06d}.bmp").write_bytes(head + rng.bytes(768))


def measured(bench: Bench, size: int, batch: int, images: int) -> dict[str, float]:
    """Measure one cell, by the names of COLUMNS."""
    write_images(Path(bench.data), images)
    bench.image_size, seconds = size, []
    for _ in range(2):
        began = time.perf_counter()
        folder_data(bench.data, image_size=size, resize="stretch", batch_size=batch).setup()
        seconds.append(time.perf_counter() - began)
    steps = (f"trainer.max_steps={STEPS}", f"callbacks.clock.warmup_steps={WARMUP}")
    results = bench.train(f"data.batch_size={batch}", *steps).results
    values = (results["images_per_second"], results["peak_memory_mib"], results["seconds_to_first_step"], *seconds)
    return dict(zip(COLUMNS, values, strict=True))


def grown(axis: Axis, before: int, value: int, was: dict, now: dict) -> dict[str, tuple[float, float]]:
    """{column: (growth, expected growth)}; images/s as seconds an image."""
    factors = {}
    for name in COLUMNS:
        cost, factor = (
            ("seconds an image", was[name] / now[name]) if name == "images/s" else (name, now[name] / was[name])
        )
        factors[name] = factor, axis.expected(before, value, cost)
    return factors


def table(axis: Axis, values: Sequence[int], rows: Sequence[dict[str, float]]) -> str:
    """Markdown, each figure with its growth since the row before and the expected growth."""
    lines = [f"| {axis.unit} | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for i, (value, now) in enumerate(zip(values, rows, strict=True)):
        factors = grown(axis, values[i - 1], value, rows[i - 1], now) if i else {}
        growth = (_factor(*factors[name]) if i else "" for name in COLUMNS)
        shown = (f"{now[name]:.4g}{factor}" for name, factor in zip(COLUMNS, growth, strict=True))
        lines.append(f"| {value} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _factor(factor: float, expected: float) -> str:
    flag = ", **too much**" if factor > TOO_MUCH * expected else ""
    return f" (x{factor:.2f} of x{expected:g}{flag})"


if __name__ == "__main__":
    main()
