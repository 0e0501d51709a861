"""Tasks: which images to generate, where each trajectory starts, and which figures are made at the end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar

import torch

from chrysalis.conditions.request import Request
from chrysalis.data import pixels
from chrysalis.data.image_file import ImageFile
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.sampling.grids import enlarged_table
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.loop import Hook
from chrysalis.sampling.output import MOST_IN_FIGURES, OutputFolder
from chrysalis.sampling.timesteps import Segments, TimestepSchedule, repeat_segments
from chrysalis.system.errors import UserError
from chrysalis.system.files import write_text

MOST_ROWS, MOST_COLUMNS = 24, 16  # in a grid of several conditions
COLUMNS = 8  # in a grid of one condition that is an image


@dataclass(frozen=True)
class SampleSpec:
    """One image to generate.

    name: file name without .png. seed: for its start and its stochastic steps. second_seed, fraction: task=morph
    interpolates the start by this fraction (0 to 1) towards this seed's noise. blend_ratio: task=blend generates it
    with weights between the base model's (0) and the model's own (1). row: its row of conditions.
    """

    name: str
    seed: int
    second_seed: int = 0
    fraction: float = 0.0
    blend_ratio: float = 1.0
    row: int = 0


@dataclass
class Sampler:
    """What images are sampled with.

    denoiser: with its guidance, if there is any. size: (height, width) of the images. recurrence: how often each step
    is taken, with noise added back in between. request: the conditions, none for an unconditional model.
    """

    denoiser: Denoiser | Guided
    schedule: TimestepSchedule
    size: tuple[int, int]
    recurrence: int = 1
    request: Request = field(default_factory=lambda: Request(None, {}, None))

    @property
    def unguided(self) -> Denoiser:
        return self.denoiser.denoiser if isinstance(self.denoiser, Guided) else self.denoiser

    @property
    def device(self) -> torch.device:
        return self.schedule.device

    def noise(self, generators: list[torch.Generator]) -> torch.Tensor:
        """float32 [B, C, H, W]: each generator's next normal numbers."""
        return seeds.noise(generators, self.unguided.shape(self.size), self.device)

    def x0_of(self, file: ImageFile) -> torch.Tensor:
        """The x_0 [1, C, H, W] of an image file, at the size of the images."""
        return self.unguided.codec.encode(file.at(self.size, channels=self.unguided.codec.channels).to(self.device))

    def cond(self, specs: Sequence[SampleSpec]) -> dict:
        """The condition of these images."""
        return self.request.cond([spec.row for spec in specs], [spec.seed for spec in specs], self.size, self.device)


class Generate:
    """Images from noise, image i from seed + i; the base class of all tasks.

    result: what the task found, such as distances, for settings.json.
    """

    scheduler_settings: ClassVar[dict] = {}  # required of the scheduler
    one_condition: ClassVar[bool] = False  # whether all images must have the same condition

    def __init__(self):
        self.result: dict = {}

    def all_specs(self, seed: int, n: int, request: Request) -> list[SampleSpec]:
        """The specs of all images, for every row of conditions that is requested, with the row in their names."""
        if request.n_rows == 1:
            return self.specs(seed, n)
        if self.one_condition:
            name = type(self).__name__.lower()
            raise UserError(f"task={name} takes one condition at a time, not a list of {request.n_rows}: give one.")
        names = [request.file_name(row) for row in range(request.n_rows)]
        if len({name.casefold() for name in names}) < len(names) or not all(0 < len(name) <= 30 for name in names):
            names = [f"row{row:03d}" for row in range(request.n_rows)]
        specs = self.specs(seed, n)
        return [replace(spec, name=f"{name}_{spec.name}", row=row) for row, name in enumerate(names) for spec in specs]

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [SampleSpec(f"seed_{seed + i:05d}", seed + i) for i in range(n)]

    def prepare(self, sampler: Sampler) -> None:
        """Check, before the first image, what could fail at the end."""

    def segments(self, sampler: Sampler) -> Segments:
        """All full steps, each as often as the recurrence says."""
        return repeat_segments([(0, len(sampler.schedule))], sampler.recurrence)

    def start(self, sampler: Sampler, specs: Sequence[SampleSpec], generators: list[torch.Generator]) -> torch.Tensor:
        """x, float32 [B, C, H, W], at the noise level of the first segment. generators: one for each image's seed."""
        return sampler.noise(generators)

    def hook(self, sampler: Sampler, start: torch.Tensor) -> Hook | None:
        """What the loop calls after every step of a trajectory from `start`."""
        return None

    def postprocess(self, sampler: Sampler, images: torch.Tensor) -> torch.Tensor:
        """Return the images of a batch, uint8 [B, C, H, W], as they are written."""
        return images

    def finish(self, sampler: Sampler, output: OutputFolder, specs: Sequence[SampleSpec]) -> list[str]:
        """Write the figures of this task's images and return their names; here grid.png of the first images.

        Labels and captions are written too, into a metadata.jsonl, with which the folder is a dataset. With several
        conditions each has a row; a mask or an image that the model is given is shown above its images.
        """
        request = sampler.request
        lines = [{"file_name": f"{spec.name}.png", **request.metadata(spec.row)} for spec in specs]
        if request.metadata(0):
            write_text(output.path / "metadata.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        if request.n_rows == 1 and not request.spatial:
            images = output.images([spec.name for spec in specs[:MOST_IN_FIGURES]])
            return [output.save_figure(pixels.grid(images), "grid")]
        if request.n_rows == 1:
            shown = specs[:MOST_IN_FIGURES]
            rows = [shown[k : k + COLUMNS] for k in range(0, len(shown), COLUMNS)]
        else:
            same_row = [list(group) for _, group in groupby(specs, key=lambda spec: spec.row)]
            rows = [group[:MOST_COLUMNS] for group in same_row[:MOST_ROWS]]
        table = []
        for row in rows:
            cond = sampler.cond(row)
            table += [(name, pixels.to_uint8(cond[name]).expand(-1, 3, -1, -1).cpu()) for name in request.spatial]
            table.append((request.row_name(row[0].row), output.images([spec.name for spec in row])))
        return [output.save_figure(enlarged_table(table), "grid", enlarge=False)]


def split_into_batches(specs: Sequence[SampleSpec], batch_size: int) -> list[list[SampleSpec]]:
    """Split the specs, in their order, into batches of one blend ratio each.

    Batches depend on nothing else, because an image may be rounded differently in another batch.
    """
    return [
        same[k : k + batch_size]
        for _, group in groupby(specs, key=lambda spec: spec.blend_ratio)
        for same in [list(group)]
        for k in range(0, len(same), batch_size)
    ]
