"""From an image to an image: img2img, inpaint, invert are a start, a way and a hook around the one loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from chrysalis.data import pixels
from chrysalis.data.image_file import ImageFile
from chrysalis.diffusion import seeds
from chrysalis.sampling.grids import read
from chrysalis.sampling.schedulers import repeated
from chrysalis.sampling.tasks import Animation, Canvas, Generate, SampleSpec, Start
from chrysalis.system.errors import UserError, require_whole


class ImageToImage(Generate):
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): the image is noised up to `strength` of the way and drawn anew.

    image: a path. strength: 0 would keep the image, 1 keeps next to nothing of it.
    """

    def __init__(self, image: str, strength: float = 0.5):
        super().__init__()
        if not isinstance(strength, int | float) or isinstance(strength, bool) or not 0 < strength <= 1:
            raise UserError(f"task.strength={strength} must lie above 0 (keep the image) and at most 1 (all noise).")
        self.image, self.strength = ImageFile(image, "task.image"), float(strength)

    def first(self, canvas: Canvas) -> int:
        """The full step that it starts from: the nearest to t = strength T, however the scheduler spaces its steps."""
        timetable = canvas.timetable
        asked = self.strength * timetable.fresh.config.num_train_timesteps
        return min(range(len(timetable)), key=lambda step: abs(float(timetable.level(step)) - asked))

    def legs(self, canvas: Canvas) -> list[tuple[int, int]]:
        return repeated([(self.first(canvas), len(canvas.timetable))], canvas.recurrence)

    def start(self, canvas: Canvas, specs: list[SampleSpec]) -> Start:
        generators = seeds.cpu_generators(p.seed for p in specs)
        level = canvas.timetable.level(self.first(canvas)).view(1)
        image = self.image.at(canvas.size).to(canvas.device)
        return Start(canvas.unguided.noise.add(image, canvas.noise(generators), level), generators, self.legs(canvas))


class Inpaint(Generate):
    """RePaint (Lugmayr et al. 2022, arXiv 2201.09865): what the mask leaves is put back, noised, at every step.

    image, mask: paths; the mask is white, or transparent (see data/masks.py), where the image is generated anew.
    jump, resamplings: every stretch of `jump` steps is gone through `resamplings` times, which lets the new part grow
    into the old one.
    """

    def __init__(self, image: str, mask: str, jump: int = 5, resamplings: int = 3):
        super().__init__()
        for name, value in (("jump", jump), ("resamplings", resamplings)):
            require_whole(f"task.{name}", value)
        self.image, self.mask = ImageFile(image, "task.image"), ImageFile(mask, "task.mask")
        self.mask.require_shape_of(self.image)
        self.jump, self.resamplings = jump, resamplings

    def legs(self, canvas: Canvas) -> list[tuple[int, int]]:
        legs = repeated([(0, len(canvas.timetable))], self.resamplings, self.jump)
        return repeated(legs, canvas.recurrence)

    def start(self, canvas: Canvas, specs: list[SampleSpec]) -> Start:
        generators = seeds.cpu_generators(p.seed for p in specs)
        eps = canvas.noise(generators)
        image = self.image.at(canvas.size).to(canvas.device)
        drawn = self.mask.mask_at(canvas.size, hole=True).to(canvas.device)

        def paste(x: torch.Tensor, t: torch.Tensor | None) -> torch.Tensor:
            known = image if t is None else canvas.unguided.noise.add(image, eps, t.view(1))
            return drawn * x + (1 - drawn) * known

        return Start(eps, generators, self.legs(canvas), paste)


class Invert(Generate):
    """DDIM inversion (Song et al. 2021, sec. 5.4): the noise from which DDIM draws this very image.

    Unguided, the image is reconstructed; guidance changes in it what it asks for. corrections: how often each step
    back is corrected, since eps is to be that of the noisier image, which is only known afterwards (a fixed-point
    iteration, Pan et al. 2023, arXiv 2309.04907); 0 is the usual approximation.
    """

    scheduler_settings: ClassVar[dict] = {"clip_sample": False}  # clipping cannot be undone
    one_condition = True

    def __init__(self, image: str, corrections: int = 3):
        super().__init__()
        require_whole("task.corrections", corrections, least=0)
        self.image, self.corrections = ImageFile(image, "task.image"), corrections

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [SampleSpec("reconstruction", seed)]

    def start(self, canvas: Canvas, specs: list[SampleSpec]) -> Start:
        if type(canvas.timetable.fresh).__name__ != "DDIMScheduler" or getattr(canvas.timetable.fresh, "eta", 0):
            raise UserError("task=invert goes DDIM's deterministic way back: use scheduler=ddim, without eta.")
        if canvas.recurrence > 1:
            raise UserError(
                "guidance.recurrence adds noise, after which task=invert cannot reconstruct: leave it at 1."
            )
        image = self.image.at(canvas.size).to(canvas.device)
        generators = seeds.cpu_generators(p.seed for p in specs)
        return Start(self.noise_of(image, canvas, canvas.cond(specs)), generators, self.legs(canvas))

    @torch.no_grad()
    def noise_of(self, image: torch.Tensor, canvas: Canvas, cond: Mapping | None = None) -> torch.Tensor:
        """x_T [1, 3, H, W]: x_t = alpha_t x_0 + sigma_t eps with x_0 = (x_s - sigma_s eps) / alpha_s, s before t."""
        denoiser, x = canvas.unguided, image
        noise = denoiser.noise
        alpha_s, sigma_s, level = torch.ones_like(x[:1, :1, :1, :1]), torch.zeros_like(x[:1, :1, :1, :1]), None
        for step in reversed(range(len(canvas.timetable))):
            t = canvas.timetable.level(step)
            alpha, sigma = noise.alpha(t.view(1)), noise.sigma(t.view(1))
            x_t, at = x, t if level is None else level
            for _ in range(self.corrections + 1):
                eps = denoiser(x_t, at, cond).eps
                x_t, at = alpha * (x - sigma_s * eps) / alpha_s + sigma * eps, t
            x, alpha_s, sigma_s, level = x_t, alpha, sigma, t
        return x

    def finish(self, out: Path, specs: list[SampleSpec], animation: Animation, text: dict[str, str]) -> list[str]:
        """grid.png: the image and its reconstruction. The PSNR of the two goes into settings.json."""
        drawn = read(out / f"{specs[0].name}.png")[None]
        asked = pixels.to_uint8(self.image.at(tuple(drawn.shape[-2:])))
        psnr = peak_signal_noise_ratio(drawn.float(), asked.float(), data_range=255.0)
        same = torch.equal(drawn, asked)  # JSON has no infinity
        self.notes["psnr"] = None if same else round(float(psnr), 2)
        how_near = "the same to the last pixel" if same else f"PSNR {psnr:.1f} dB"
        pixels.save_sheet(pixels.grid(torch.cat([asked, drawn])), out / "grid.png", text)
        return [f"grid.png (the image and its reconstruction, {how_near})"]
