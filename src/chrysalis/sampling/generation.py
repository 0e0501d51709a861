"""Generating the images of a task into a folder, whatever stops the work or divides it among processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch

from chrysalis.data import pixels
from chrysalis.sampling.condition_grid import save_condition_grid
from chrysalis.sampling.devices import ProcessGroup
from chrysalis.sampling.finite import FiniteCheck
from chrysalis.sampling.guidance.figures import GuidanceFigures
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.image_writer import ImageWriter
from chrysalis.sampling.loop import trajectory
from chrysalis.sampling.output import MOST_IN_FIGURES, OutputFolder
from chrysalis.sampling.record import FILE
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.sampling.trajectory_recorder import TrajectoryRecorder
from chrysalis.system.compiling import compiled_only_if, why_not_compiled
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import stage, warn

Batch = Sequence[SampleSpec]


@dataclass
class Generation:
    """One run of a task: its batches of images into a folder. Images that are complete there are not generated again.

    recorder: of the first batch, which is then sampled in any case. processes: among which the batches are divided.
    """

    sampler: Sampler
    task: Generate
    output: OutputFolder
    recorder: TrajectoryRecorder | None = None
    processes: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self):
        self.guided = self.sampler.denoiser if isinstance(self.sampler.denoiser, Guided) else None
        self.figures = GuidanceFigures()

    def run(self, batches: Sequence[Batch]) -> list[str]:
        """Generate the images and what the task makes of them; returns what was written, in words."""
        torch.backends.cudnn.deterministic = True  # so that an image can be generated again to the bit
        for sentence in self.sampler.warnings():
            warn(sentence)
        self.task.prepare(self.sampler)
        specs = list(chain.from_iterable(batches))
        self.output.keep_in_memory = self.figures.names = [spec.name for spec in specs[:MOST_IN_FIGURES]]
        # 1. Find what is left and remove what a killed process has left half written, before any process writes
        own = self._left(batches)[self.processes.rank :: self.processes.world_size]
        is_first = self.processes.rank == 0
        for partial in self.output.path.glob(".*.partial") if is_first else ():
            partial.unlink(missing_ok=True)
        self.processes.gather(None)
        if is_first:
            self.output.record.write(self.output.path)
        # 2. Generate this process's batches; one process's failure is everyone's
        failure = self._generate(own, full=max(map(len, batches)))
        self._raise_any(failure)
        # 3. The first process makes the figures
        self.figures.gather(self.processes)
        only = self.output.record.only
        names = [f"{only}.png"] if only else [f"{len(specs)} image{'s' * (len(specs) > 1)}"]
        return [*names, *self._finish(specs)] if is_first else names

    def _left(self, batches: Sequence[Batch]) -> list[Batch]:
        only = self.output.record.only
        if only is not None:
            first, last = batches[0][0].name, batches[-1][-1].name
            batches = [batch for batch in batches if only in (spec.name for spec in batch)]
            if not batches:
                raise UserError(f"only={only} is not one of these images: {first} to {last}.")
        self.recorded = batches[0] if self.recorder is not None else None
        return [batch for batch in batches if batch is self.recorded or not self._is_complete(batch)]

    def _is_complete(self, batch: Batch) -> bool:
        only = self.output.record.only
        return all(self.output.has(spec.name) for spec in batch if only in (None, spec.name))

    def _generate(self, batches: Sequence[Batch], full: int) -> Exception | None:
        evaluations = self.sampler.schedule.evaluations(self.task.segments(self.sampler))
        try:
            with stage("sampling", evaluations * sum(map(len, batches))) as progress, ImageWriter() as writer:
                for batch in batches:
                    with compiled_only_if(len(batch) == full):
                        images = self._images(batch, progress.advance)
                    if self.guided is not None:
                        self.figures.add([spec.name for spec in batch], self.guided.records)
                    for spec, image in zip(batch, images, strict=True):
                        self.output.add(spec.name, image, writer)
        except Exception as error:
            return why_not_compiled(error) or error
        return None

    def _images(self, batch: Batch, advance: Callable[[int], None]) -> torch.Tensor:
        """uint8 [B, C, H, W] on the CPU."""
        sampler = self.sampler
        start = self.task.initial_state(sampler, batch)
        if self.guided is not None:
            self.guided.begin()
        recorder = self.recorder if batch is self.recorded else None
        if recorder is not None:
            recorder.begin(start.x, sampler.schedule.evaluations(start.segments))
        immediate = start.x.device.type == "cpu" or self.guided is not None
        finite = FiniteCheck(type(sampler.schedule.scheduler).__name__, immediate)
        x, cond = start.x, sampler.cond(batch)
        for step in trajectory(
            sampler.denoiser, sampler.schedule, x, start.generators, start.segments, start.hook, cond
        ):
            finite.see(step)
            if recorder is not None:
                recorder.keep(step)
            advance(len(batch))
            x = step.x
        finite.require()
        return pixels.to_uint8(x).cpu()

    def _raise_any(self, failure: Exception | None) -> None:
        own = None if failure is None else str(failure) or type(failure).__name__
        messages = [message for message in self.processes.gather(own) if message]
        if not messages:
            return
        if self.processes.rank == 0 and not any(self.output.path.glob("*.png")):
            (self.output.path / FILE).unlink()
        raise failure if failure and not isinstance(failure, UserError) else UserError(messages[0])

    def _finish(self, specs: list[SampleSpec]) -> list[str]:
        output, task = self.output, self.task
        names = self.recorder.finish(output) if self.recorder is not None else []
        if output.record.only is None:
            grid = [] if task.one_condition else save_condition_grid(output, self.sampler, specs)
            names += grid or task.finish(output, specs)
            names += task.conclude(output.path, specs)
            names += self.figures.save(output.path) if self.guided is not None else []
        output.record.write(output.path, task.notes)
        return names
