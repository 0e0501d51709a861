"""What to draw: a task says which images there are, where each starts, and what is made of them at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from chrysalis.conditions.request import Request
from chrysalis.diffusion import seeds
from chrysalis.sampling.grids import require_formats, save_grid
from chrysalis.sampling.schedulers import Timetable, repeated
from chrysalis.system.errors import UserError, require_whole


@dataclass(frozen=True)
class SampleSpec:
    """name: of its file. seed: of its start and of its stochastic steps.

    toward, part: a second seed, and how far towards it the start lies. mix: how far the weights lie from the base
    model's (0) to the model's (1); None for the model's own. row: of what is asked for, see Canvas.asked.
    """

    name: str
    seed: int
    toward: int | None = None
    part: float = 0.0
    mix: float | None = None
    row: int = 0


@dataclass
class Canvas:
    """What is drawn with. unguided: the denoiser below the guidance. size: (height, width). asked: what a conditional
    model is told."""

    denoiser: torch.nn.Module
    unguided: torch.nn.Module
    timetable: Timetable
    size: tuple[int, int]
    recurrence: int = 1
    asked: Request | None = None

    @property
    def device(self) -> torch.device:
        return self.unguided.noise.alphas.device

    def noise(self, generators: list[torch.Generator]) -> torch.Tensor:
        return seeds.noise(generators, (self.unguided.channels, *self.size), self.device)

    def cond(self, specs: Sequence[SampleSpec]) -> dict | None:
        """What the model is told for these images."""
        if self.asked is None:
            return None
        return self.asked.cond([p.row for p in specs], [p.seed for p in specs], self.size, self.device)


@dataclass
class Start:
    """x: float32 [B, C, H, W] at the level of the first leg. See sampling/loop.py."""

    x: torch.Tensor
    generators: list[torch.Generator]
    legs: list[tuple[int, int]]
    paste: Callable | None = None


@dataclass
class Animation:
    """How animations are written. formats: of gif, webp and mp4. frames: at most so many, over `seconds`."""

    formats: Sequence[str] = ("gif", "mp4")
    frames: int = 60
    seconds: float = 4.0

    def __post_init__(self):
        self.formats = [self.formats] if isinstance(self.formats, str) else list(self.formats or [])
        require_formats(self.formats)
        require_whole("animation.frames", self.frames, least=2)
        if not isinstance(self.seconds, int | float) or not 0.1 <= self.seconds <= 600:
            raise UserError(f"animation.seconds={self.seconds} must be a number from 0.1 to 600.")


class Generate:
    """Images from noise; image i from seed + i. notes: what the end found worth telling, for settings.json."""

    scheduler_settings: ClassVar[dict] = {}  # what the scheduler must be built with
    one_condition: ClassVar[bool] = False  # whether all its images must be told the same

    def __init__(self):
        self.notes: dict = {}

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [SampleSpec(f"seed_{seed + i:05d}", seed + i) for i in range(n)]

    def prepare(self, canvas: Canvas) -> None:
        """What may be refused before the first image is drawn."""

    def legs(self, canvas: Canvas) -> list[tuple[int, int]]:
        """The full steps, with the recurrence that guidance asks for."""
        return repeated([(0, len(canvas.timetable))], canvas.recurrence)

    def start(self, canvas: Canvas, specs: list[SampleSpec]) -> Start:
        generators = seeds.cpu_generators(p.seed for p in specs)
        return Start(canvas.noise(generators), generators, self.legs(canvas))

    def finish(self, out: Path, specs: list[SampleSpec], animation: Animation, text: dict[str, str]) -> list[str]:
        """grid.png of the first 64 of the images, which lie in `out`."""
        save_grid(out, [p.name for p in specs[:64]], text)
        return ["grid.png"]

    def conclude(self, out: Path, specs: list[SampleSpec]) -> list[str]:
        """What else is made of all images together, in whatever rows they are shown."""
        return []
