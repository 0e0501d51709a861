"""Generate the images of a task into a folder: batches are divided among processes, and complete images are kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch

from chrysalis.diffusion import seeds
from chrysalis.sampling.devices import ProcessGroup
from chrysalis.sampling.guidance.figures import GuidanceFigures
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.loop import Step, trajectory
from chrysalis.sampling.output import MOST_IN_FIGURES, ImageWriter, OutputFolder, TrajectoryRecorder
from chrysalis.sampling.record import FILE
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.system.compiling import compiled_only_if, why_not_compiled
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import stage, warn

Batch = Sequence[SampleSpec]


@dataclass
class Generation:
    """One run of a task, which writes its batches of images into a folder; images that are complete there are kept.

    recorder: keeps the first batch's trajectory; that batch is sampled even if complete. processes: share the batches.
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
        """Generate the images and the task's figures; return a description of each thing written."""
        torch.backends.cudnn.deterministic = True  # so that an image can be generated again to the bit
        output, is_first = self.output, self.processes.rank == 0
        for sentence in filter(None, (self.sampler.schedule.warning(), self.sampler.request.missing())):
            warn(sentence)
        self.task.prepare(self.sampler)
        specs = list(chain.from_iterable(batches))
        output.keep_in_memory = self.figures.names = [spec.name for spec in specs[:MOST_IN_FIGURES]]
        # 1. Find the missing images and remove partial files of a killed process, before any process writes
        own = self._remaining(batches)[self.processes.rank :: self.processes.world_size]
        for partial in output.path.glob(".*.partial") if is_first else ():
            partial.unlink(missing_ok=True)
        self.processes.gather(None)
        if is_first:
            output.record.write(output.path)
        # 2. Generate this process's batches; a failure of one process ends all of them
        self._raise_any(self._generate(own, full=max(map(len, batches))))
        # 3. The first process makes the figures
        for rows in self.processes.gather(self.figures.rows):
            self.figures.rows |= rows
        only = output.record.only_image
        names = [f"{only}.png"] if only else [f"{len(specs)} image{'s' * (len(specs) > 1)}"]
        if is_first:
            names += self.recorder.finish(output) if self.recorder is not None else []
            if only is None:
                names += self.task.finish(self.sampler, output, specs)
                names += self.figures.save(output.path) if self.guided is not None else []
            output.record.write(output.path, self.task.result)
        return names

    def _remaining(self, batches: Sequence[Batch]) -> list[Batch]:
        """Choose the batches with images that the folder lacks, and the one to record."""
        only = self.output.record.only_image
        if only is not None:
            first, last = batches[0][0].name, batches[-1][-1].name
            batches = [batch for batch in batches if only in (spec.name for spec in batch)]
            if not batches:
                raise UserError(f"only={only} is not one of these images: choose from {first} to {last}.")
        self.recorded = batches[0] if self.recorder is not None else None
        lacks = self.output.lacks
        return [batch for batch in batches if batch is self.recorded or any(lacks(spec.name) for spec in batch)]

    def _generate(self, batches: Sequence[Batch], full: int) -> Exception | None:
        """Write the images of the batches; return the error, if any. full: the size of a batch that is not the last."""
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
        """Generate the images of a batch, uint8 [B, C, H, W] on the CPU."""
        sampler, task = self.sampler, self.task
        generators = seeds.generators(spec.seed for spec in batch)
        segments, x = task.segments(sampler), task.start(sampler, batch, generators)
        if self.guided is not None:
            self.guided.begin()
        recorder = self.recorder if batch is self.recorded else None
        if recorder is not None:
            recorder.begin(x, sampler.schedule.evaluations(segments), sampler.unguided.codec)
        steps = trajectory(
            sampler.denoiser, sampler.schedule, x, generators, segments, task.hook(sampler, x), sampler.cond(batch)
        )
        immediate = x.device.type == "cpu" or self.guided is not None
        for step in require_finite(steps, type(sampler.schedule.scheduler).__name__, immediate):
            if recorder is not None:
                recorder.keep(step)
            advance(len(batch))
            x = step.x
        return task.postprocess(sampler, sampler.unguided.codec.decode(x)).cpu()

    def _raise_any(self, failure: Exception | None) -> None:
        """Raise this process's error, or another's; before the first image also remove settings.json."""
        own = None if failure is None else str(failure) or type(failure).__name__
        messages = [message for message in self.processes.gather(own) if message]
        if not messages:
            return
        if self.processes.rank == 0 and not any(self.output.path.glob("*.png")):
            (self.output.path / FILE).unlink()
        raise failure if failure and not isinstance(failure, UserError) else UserError(messages[0])


def require_finite(steps: Iterator[Step], scheduler: str, immediate: bool) -> Iterator[Step]:
    """Yield the steps of a trajectory; raise a UserError that names the first step whose values are not finite.

    immediate: raise in place of that step; otherwise after the last one, which avoids a GPU synchronization at every
    step. Guidance synchronizes anyway, and would itself fail on such values at the next step.
    """
    taken, finite = [], []
    for step in steps:
        taken.append((step.i, step.t))
        finite.append(step.x.isfinite().all())
        if immediate and not finite[-1]:
            break
        yield step
    found = torch.stack(finite).tolist()
    if not all(found):
        i, t = taken[found.index(False)]
        raise UserError(
            f"step {i} (t={float(t):g}) of scheduler={scheduler} gave values that are not finite: "
            "lower the guidance's scale, or choose another number of steps or another scheduler."
        )
