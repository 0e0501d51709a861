"""Between seeds, and between models: images that lie on a line."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from chrysalis.data import pixels
from chrysalis.diffusion import mixing
from chrysalis.diffusion import seeds as keyed
from chrysalis.models import location, lora, second_model
from chrysalis.models.model import Model
from chrysalis.sampling.grids import enlarged, read, save_film, save_grid
from chrysalis.sampling.tasks import Animation, Canvas, Generate, SampleSpec, Start
from chrysalis.system.alignment import align
from chrysalis.system.errors import UserError, require_whole

MOST = 600  # frames of one animation; of more, every second, third ... is shown


class Morph(Generate):
    """From seed to seed + 1 and on to the n-th: the start is turned from one noise to the next (slerp).

    frames: images from one seed to the next. loop: return to the first seed. columns: images of the strip.
    """

    one_condition = True

    def __init__(self, frames: int = 16, loop: bool = False, columns: int = 9):
        super().__init__()
        for name, value in (("frames", frames), ("columns", columns)):
            require_whole(f"task.{name}", value, least=2)
        if not isinstance(loop, bool):
            raise UserError(f"task.loop={loop} must be true or false.")
        self.frames, self.loop, self.columns = frames, loop, columns

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        if n < 2:
            raise UserError(f"n={n}: task=morph goes from seed to seed and needs at least 2.")
        seeds = [seed + i for i in range(n)] + ([seed] if self.loop else [])
        self.steps_seed = keyed.key("morph", seed)
        way = [(a, b, j / self.frames) for a, b in pairwise(seeds) for j in range(self.frames)]
        way += [] if self.loop else [(seeds[-2], seeds[-1], 1.0)]
        return [SampleSpec(f"frame_{k:05d}", a, b, part) for k, (a, b, part) in enumerate(way)]

    def start(self, canvas: Canvas, specs: list[SampleSpec]) -> Start:
        def of(seed: int) -> torch.Tensor:
            return canvas.noise(keyed.cpu_generators([seed]))[0]

        x = torch.stack([mixing.slerp(of(p.seed), of(p.toward), p.part) for p in specs])
        # one seed for the steps of all frames: noise that differed from frame to frame would flicker
        generators = keyed.cpu_generators(self.steps_seed for _ in specs)
        return Start(x, generators, self.legs(canvas))

    def finish(self, out: Path, specs: list[SampleSpec], animation: Animation, text: dict[str, str]) -> list[str]:
        """morph.png, a strip with every seed and what lies between, and the animation of all frames."""
        names = [p.name for p in specs]
        rows = [names[k : k + self.frames + 1] for k in range(0, len(names) - 1, self.frames)]
        picked = []
        for row in rows:
            row = row if len(row) > self.frames or not self.loop else [*row, names[0]]
            places = torch.linspace(0, len(row) - 1, min(self.columns, len(row))).round().long().tolist()
            picked.append(torch.stack([read(out / f"{row[k]}.png") for k in places]))
        pixels.save_png(pixels.strip(picked), out / "morph.png", text)
        shown = names[:: -(-len(names) // MOST)]
        frames = [enlarged(read(out / f"{name}.png")) for name in shown]
        save_film(frames, out / "morph", animation.formats, max(animation.seconds, len(frames) / 15))
        return ["morph.png", *(f"morph.{name}" for name in animation.formats)]


class Blend(Generate):
    """Weights between the base model's and the fine-tuned one's: one row per seed, one column per ratio.

    base: a diffusers folder or hub id; None for what the run was fine-tuned from. ratios: 0 is the base model, 1 the
    fine-tuned one; beyond 1 goes further the same way.
    """

    one_condition = True

    def __init__(self, model: Model, base: str | None = None, ratios: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)):
        super().__init__()
        listed = isinstance(ratios, Sequence) and not isinstance(ratios, str) and len(ratios)
        if not listed or any(not isinstance(r, int | float) or not -1 <= r <= 2 for r in ratios):
            raise UserError(f"task.ratios={ratios} must be a list of numbers from -1 to 2, such as [0,0.5,1].")
        if len({f"{r:.3f}" for r in ratios}) < len(ratios):
            raise UserError(f"task.ratios={list(ratios)} must differ in their first three digits.")
        self.ratios = [float(r) for r in ratios]
        if model.conditioner is not None:
            raise UserError(f"task=blend mixes unconditional models, and {model.origin} is told something.")
        name = base or location.base_of(model.origin)
        if name is None:
            raise UserError(f"task.base is not given, and {model.origin} does not say what it was fine-tuned from.")
        other = second_model.load(model, name, "task.base")
        for one in (model, other):
            if lora.injected(one.unet):  # a LoRA exported with adapter.merge=false
                one.unet = align(lora.merged(one.unet))
        self.base, self.own = other.unet.state_dict(), {k: v.clone() for k, v in model.unet.state_dict().items()}
        shapes = [{k: v.shape for k, v in state.items()} for state in (self.base, self.own)]
        if shapes[0] != shapes[1] or other.prediction != model.prediction:
            raise UserError(f"task.base={name} is another kind of UNet than {model.origin}: weights cannot blend.")

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [
            SampleSpec(f"ratio_{ratio:.3f}_seed_{seed + i:05d}", seed + i, mix=ratio)
            for ratio in self.ratios
            for i in range(n)
        ]

    def start(self, canvas: Canvas, specs: list[SampleSpec]) -> Start:
        canvas.unguided.unet.load_state_dict(mixing.lerp(self.base, self.own, specs[0].mix))
        return super().start(canvas, specs)

    def finish(self, out: Path, specs: list[SampleSpec], animation: Animation, text: dict[str, str]) -> list[str]:
        by_seed = sorted(specs, key=lambda p: (p.seed, self.ratios.index(p.mix)))
        save_grid(out, [p.name for p in by_seed[: 16 * len(self.ratios)]], text, columns=len(self.ratios))
        return ["grid.png"]
