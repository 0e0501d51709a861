"""Tasks between two ends: morph interpolates the noise of two seeds, blend the weights of two models."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch

from chrysalis.data import pixels
from chrysalis.diffusion import mixing, seeds
from chrysalis.models import lora, second_model
from chrysalis.models.model import Model
from chrysalis.sampling.grids import enlarged_to
from chrysalis.sampling.output import OutputFolder
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.system.errors import UserError
from chrysalis.system.memory import align
from chrysalis.system.ranges import BlendRatio, Columns, Frames

MOST_FRAMES = 600  # in one animation; beyond that, only every second, third ... is shown
MOST_BLEND_SEEDS = 16  # rows of blend's grid


class Morph(Generate):
    """Images along the seeds seed, seed + 1, ..., seed + n - 1; the noise is interpolated between them (slerp).

    frames: images from one seed to the next. loop: return to the first seed. columns: images in a row of morph.png.
    """

    one_condition = True

    def __init__(self, frames: Frames = 16, loop: bool = False, columns: Columns = 9):
        super().__init__()
        self.frames, self.loop, self.columns = frames, loop, columns

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        if n < 2:
            raise UserError(f"n={n}: task=morph interpolates between seeds and needs at least 2.")
        corners = [seed + i for i in range(n)] + ([seed] if self.loop else [])
        self.steps_seed = seeds.key("morph", seed)
        between = [(a, b, j / self.frames) for a, b in pairwise(corners) for j in range(self.frames)]
        between += [] if self.loop else [(corners[-2], corners[-1], 1.0)]
        return [SampleSpec(f"frame_{k:05d}", a, b, fraction) for k, (a, b, fraction) in enumerate(between)]

    def start(self, sampler: Sampler, specs: Sequence[SampleSpec], generators: list[torch.Generator]) -> torch.Tensor:
        for generator in generators:  # one seed for the steps of all frames: other noise in each would flicker
            generator.manual_seed(self.steps_seed)
        first = sampler.noise(seeds.generators(spec.seed for spec in specs))
        second = sampler.noise(seeds.generators(spec.second_seed for spec in specs))
        return torch.stack([mixing.slerp(a, b, spec.fraction) for a, b, spec in zip(first, second, specs, strict=True)])

    def finish(self, sampler: Sampler, output: OutputFolder, specs: Sequence[SampleSpec]) -> list[str]:
        """Write morph.png, one row from each seed to the next, and the animation of all frames."""
        names = [spec.name for spec in specs]
        rows = []
        for k in range(0, len(names) - 1, self.frames):
            row = names[k : k + self.frames + 1]
            if self.loop and len(row) <= self.frames:
                row = [*row, names[0]]
            places = torch.linspace(0, len(row) - 1, min(self.columns, len(row))).round().long().tolist()
            rows.append(output.images([row[place] for place in places]))
        figure = output.save_figure(pixels.strip(rows), "morph", enlarge=False)
        frames = [enlarged_to(image) for image in output.images(names[:: -(-len(names) // MOST_FRAMES)])]
        seconds = max(output.animation.seconds, len(frames) / 15)
        return [figure, *output.animation.save(frames, output.path / "morph", seconds)]


class Blend(Generate):
    """Weights between the base model's and the fine-tuned one's: one row per seed, one column per ratio.

    base: a diffusers folder or hub id; None for what the model was fine-tuned from. ratios: 0 is the base model, 1 the
    fine-tuned one; from -1 to 2, beyond the ends by extrapolation.
    """

    one_condition = True

    def __init__(self, model: Model, base: str | None = None, ratios: Sequence[BlendRatio] = (0, 0.25, 0.5, 0.75, 1)):
        super().__init__()
        if not ratios or len({f"{r:.3f}" for r in ratios}) < len(ratios):
            raise UserError(f"task.ratios={list(ratios)} must be one or more numbers, distinct at three decimals.")
        self.ratios = [float(r) for r in ratios]
        if model.conditioner is not None:
            raise UserError(
                f"task=blend needs unconditional models, and {model.origin} is conditional: choose another."
            )
        other = second_model.load(model, base, "task.base")
        for one in (model, other):
            if lora.injected(one.unet):  # a LoRA exported with adapter.merge=false
                one.unet = lora.plain(one.unet)
                align(one.unet)
        self.base, self.own = other.unet.state_dict(), copy.deepcopy(model.unet.state_dict())
        shapes = [{k: v.shape for k, v in state.items()} for state in (self.base, self.own)]
        if shapes[0] != shapes[1] or other.prediction != model.prediction:
            raise UserError(f"task.base={other.origin} cannot blend with {model.origin}: give its own base model.")

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [
            SampleSpec(f"ratio_{ratio:.3f}_seed_{seed + i:05d}", seed + i, blend_ratio=ratio)
            for ratio in self.ratios
            for i in range(n)
        ]

    def start(self, sampler: Sampler, specs: Sequence[SampleSpec], generators: list[torch.Generator]) -> torch.Tensor:
        ratio = specs[0].blend_ratio  # the same in all of a batch
        sampler.unguided.unet.load_state_dict(mixing.lerp(self.base, self.own, ratio))
        return super().start(sampler, specs, generators)

    def finish(self, sampler: Sampler, output: OutputFolder, specs: Sequence[SampleSpec]) -> list[str]:
        """Write grid.png with a row for each of the first seeds and a column for each ratio."""
        n = len(specs) // len(self.ratios)
        by_seed = [specs[k * n + i].name for i in range(min(n, MOST_BLEND_SEEDS)) for k in range(len(self.ratios))]
        return [output.save_figure(pixels.grid(output.images(by_seed), columns=len(self.ratios)), "grid")]
