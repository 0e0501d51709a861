"""Tasks: which images to generate, where each trajectory starts, and which figures are made at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import torch

from chrysalis.conditions.request import Request
from chrysalis.data import pixels
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.loop import Hook
from chrysalis.sampling.output import MOST_IN_FIGURES, OutputFolder
from chrysalis.sampling.timesteps import Segments, TimestepSchedule, repeat_segments
from chrysalis.system.errors import UserError


@dataclass(frozen=True)
class SampleSpec:
    """One image to generate.

    name: of its file, without .png. seed: for its start and its stochastic steps. second_seed, fraction: a seed towards
    whose noise the start is turned, and how far (0 to 1). blend_ratio: of the weights between the base model's (0) and
    the model's own (1); None without blending. row: of the conditions in the request.
    """

    name: str
    seed: int
    second_seed: int | None = None
    fraction: float = 0.0
    blend_ratio: float | None = None
    row: int = 0


@dataclass
class Sampler:
    """What images are sampled with.

    denoiser: with its guidance, if there is any. size: (height, width) of the images. recurrence: how often each step
    is taken, with noise added back in between. request: the conditions of a conditional model.
    """

    denoiser: Denoiser | Guided
    schedule: TimestepSchedule
    size: tuple[int, int]
    recurrence: int = 1
    request: Request | None = None

    @property
    def unguided(self) -> Denoiser:
        return self.denoiser.denoiser if isinstance(self.denoiser, Guided) else self.denoiser

    @property
    def device(self) -> torch.device:
        return self.schedule.device

    def noise(self, generators: list[torch.Generator]) -> torch.Tensor:
        """float32 [B, C, H, W]: each generator's next normal numbers."""
        return seeds.noise(generators, (self.unguided.channels, *self.size), self.device)

    def cond(self, specs: Sequence[SampleSpec]) -> dict | None:
        """The condition of these images."""
        if self.request is None:
            return None
        return self.request.cond([spec.row for spec in specs], [spec.seed for spec in specs], self.size, self.device)

    def warnings(self) -> list[str]:
        """Sentences on what the user may have overlooked."""
        missing = self.request.missing() if self.request is not None else None
        return [sentence for sentence in (self.schedule.warning(), missing) if sentence]


@dataclass
class InitialState:
    """Where a trajectory starts and what follows, see sampling/loop.py.

    x: float32 [B, C, H, W] at the noise level of the first segment.
    """

    x: torch.Tensor
    generators: list[torch.Generator]
    segments: Segments
    hook: Hook | None = None


class Generate:
    """Images from noise, image i from seed + i; the base class of all tasks.

    notes: results worth keeping in settings.json.
    """

    scheduler_settings: ClassVar[dict] = {}  # required of the scheduler
    one_condition: ClassVar[bool] = False  # whether all images must have the same condition

    def __init__(self):
        self.notes: dict = {}

    def all_specs(self, seed: int, n: int, request: Request) -> list[SampleSpec]:
        """The specs of all images, for every row of conditions that is requested."""
        if self.one_condition and request.rows > 1:
            name = type(self).__name__.lower()
            raise UserError(f"task={name} takes one condition at a time, not a list of {request.rows}.")
        return _for_each_row(self.specs(seed, n), request)

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [SampleSpec(f"seed_{seed + i:05d}", seed + i) for i in range(n)]

    def prepare(self, sampler: Sampler) -> None:
        """Check, before the first image, what could fail at the end."""

    def segments(self, sampler: Sampler) -> Segments:
        """All full steps, each as often as the recurrence says."""
        return repeat_segments([(0, len(sampler.schedule))], sampler.recurrence)

    def initial_state(self, sampler: Sampler, specs: Sequence[SampleSpec]) -> InitialState:
        generators = seeds.cpu_generators(spec.seed for spec in specs)
        return InitialState(sampler.noise(generators), generators, self.segments(sampler))

    def finish(self, output: OutputFolder, specs: Sequence[SampleSpec]) -> list[str]:
        """Make the figures of this task's images and return their names; here grid.png of the first images."""
        images = output.images([spec.name for spec in specs[:MOST_IN_FIGURES]])
        return [output.save_figure(pixels.grid(images), "grid")]

    def conclude(self, out: Path, specs: Sequence[SampleSpec]) -> list[str]:
        """Make what needs all images of the folder, however they are shown, and return its names."""
        return []


def _for_each_row(specs: Sequence[SampleSpec], request: Request) -> list[SampleSpec]:
    """All specs once for every row of conditions, with the row in their names."""
    if request.rows == 1:
        return list(specs)
    names = [request.file_name(row) for row in range(request.rows)]
    if len({name.casefold() for name in names}) < len(names) or not all(0 < len(name) <= 30 for name in names):
        names = [f"row{row:03d}" for row in range(request.rows)]
    return [replace(spec, name=f"{name}_{spec.name}", row=row) for row, name in enumerate(names) for spec in specs]


def in_batches(specs: Sequence[SampleSpec], batch_size: int) -> list[list[SampleSpec]]:
    """The specs in their order, in batches of one blend ratio each.

    They depend on nothing else: in another batch an image may be rounded differently.
    """
    return [
        same[k : k + batch_size]
        for _, group in groupby(specs, key=lambda spec: spec.blend_ratio)
        for same in [list(group)]
        for k in range(0, len(same), batch_size)
    ]
