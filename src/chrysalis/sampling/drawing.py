"""Pictures into a folder: PNG files, a grid, the settings and the command that draws them again."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from chrysalis import hardware, pixels, seeds
from chrysalis.denoiser import Denoiser
from chrysalis.errors import UserError, require_whole
from chrysalis.files import shown, write_text
from chrysalis.sampling.loop import evaluations, trajectory
from chrysalis.terminal import progress

GRID = 64  # a grid of more pictures than this would be unreadable


@dataclass(frozen=True)
class Settings:
    """Everything that the pictures depend on. image_size: (height, width), or None for the model's own."""

    pretrained: str
    n: int
    seed: int
    scheduler: str
    steps: int
    image_size: tuple[int, int] | None = None
    scheduler_settings: tuple[tuple[str, object], ...] = ()

    def __post_init__(self):
        for name in ("n", "steps"):
            require_whole(name, getattr(self, name))
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**62:
            raise UserError(f"seed={self.seed} must be a whole number, at least 0.")

    def command(self, out: Path) -> str:
        words = ["python", "sample.py", f"model.pretrained={self.pretrained}", f"n={self.n}", f"seed={self.seed}"]
        words += [f"scheduler={self.scheduler}", f"steps={self.steps}"]
        words += [f"+scheduler.{key}={value}" for key, value in self.scheduler_settings]
        if self.image_size:
            words.append(f"image_size=[{self.image_size[0]},{self.image_size[1]}]")
        return shlex.join([*words, f"out={shown(out)}"])


def scheduler_settings(leaf: Mapping) -> tuple[tuple[str, object], ...]:
    """What a conf/scheduler leaf sets beside the scheduler's name."""
    return tuple(sorted((key, value) for key, value in leaf.items() if key not in ("_target_", "_partial_", "name")))


def refuse_other_pictures(out: Path, settings: Settings) -> None:
    """The folder may be new, empty, or hold these very pictures; nothing else is written over."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out={shown(out)} is a file: choose a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        drawn = json.loads((out / "settings.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        drawn = None
    if drawn != json.loads(json.dumps(asdict(settings))):
        raise UserError(f"out={shown(out)} already holds other files: choose another folder.")


def draw(
    out: Path, denoiser: Denoiser, scheduler, settings: Settings, size: tuple[int, int], batch_size: int = 16
) -> None:
    """Write seed_00000.png ..., grid.png (of the first 64) and settings.json into `out`."""
    require_whole("batch_size", batch_size)
    first = []
    command = settings.command(out)
    total = settings.n * evaluations(denoiser, scheduler, settings.steps)
    with progress(f"drawing {settings.n} pictures", total) as advance:
        for start in range(0, settings.n, batch_size):
            count = min(batch_size, settings.n - start)
            generators = seeds.generators(settings.seed + start, count)
            for step in trajectory(denoiser, scheduler, settings.steps, generators, size):
                last = step.x
                advance(count)
            images = pixels.to_uint8(last).cpu()
            first.append(images[: max(0, GRID - start)])
            for i, image in enumerate(images):
                seed = settings.seed + start + i
                pixels.save_png(image, out / f"seed_{seed:05d}.png", {"seed": str(seed), "command": command})
    pixels.save_png(pixels.grid(torch.cat(first)), out / "grid.png", {"command": command})
    record = {"settings": asdict(settings), "command": command, "versions": hardware.versions()}
    write_text(out / "settings.json", json.dumps(record, indent=2) + "\n")
