"""Tasks that begin with an image: img2img, inpaint and invert are a start and a hook around the sampling loop."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio

from chrysalis.data import pixels
from chrysalis.data.image_file import ImageFile
from chrysalis.sampling.loop import Hook
from chrysalis.sampling.output import OutputFolder
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.sampling.timesteps import Segments, repeat_segments
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import From1To1000, Positive, PositiveFraction, UpTo1000


class ImageToImage(Generate):
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): the image is noised to t = strength T and denoised from there.

    image: a path. strength: above 0 (keeps the image) to 1 (keeps almost nothing of it).
    """

    def __init__(self, image: str, strength: PositiveFraction = 0.5):
        super().__init__()
        self.image, self.strength = ImageFile(image, "task.image"), float(strength)

    def first_step(self, sampler: Sampler) -> int:
        """The full step whose timestep is nearest to t = strength T, whatever the scheduler's spacing."""
        schedule = sampler.schedule
        t = self.strength * schedule.scheduler.config.num_train_timesteps
        return min(range(len(schedule)), key=lambda step: abs(float(schedule.timestep(step)) - t))

    def segments(self, sampler: Sampler) -> Segments:
        return repeat_segments([(self.first_step(sampler), len(sampler.schedule))], sampler.recurrence)

    def start(self, sampler: Sampler, specs: Sequence[SampleSpec], generators: list[torch.Generator]) -> torch.Tensor:
        t = sampler.schedule.timestep(self.first_step(sampler)).view(1)
        image = sampler.x0_of(self.image)
        return sampler.unguided.noise.add(image, sampler.noise(generators), t)


class Inpaint(Generate):
    """RePaint (Lugmayr et al. 2022, arXiv 2201.09865): known pixels are put back, noised, after every step.

    image, mask: paths; the mask is white, or transparent (see data/masks.py), where the image is generated anew.
    jump, resamplings: every stretch of `jump` steps is taken `resamplings` times, which fits the new part to the
    known one.
    """

    def __init__(self, image: str, mask: str, jump: Positive = 5, resamplings: From1To1000 = 3):
        super().__init__()
        self.image, self.mask = ImageFile(image, "task.image"), ImageFile(mask, "task.mask")
        self.mask.require_shape_of(self.image)
        self.jump, self.resamplings = jump, resamplings

    def segments(self, sampler: Sampler) -> Segments:
        segments = repeat_segments([(0, len(sampler.schedule))], self.resamplings, self.jump)
        return repeat_segments(segments, sampler.recurrence)

    def hook(self, sampler: Sampler, start: torch.Tensor) -> Hook:
        """Put the known pixels back, noised by the eps from which the trajectory started."""
        image, factor = sampler.x0_of(self.image), sampler.unguided.codec.factor
        unknown = F.max_pool2d(self._unknown(sampler), factor) if factor > 1 else self._unknown(sampler)

        def put_back(x: torch.Tensor, t: torch.Tensor | None) -> torch.Tensor:
            known = image if t is None else sampler.unguided.noise.add(image, start, t.view(1))
            return unknown * x + (1 - unknown) * known

        return put_back

    def postprocess(self, sampler: Sampler, images: torch.Tensor) -> torch.Tensor:
        """Put the known pixels back once more: an autoencoder would change them."""
        known = self.image.at(sampler.size, channels=sampler.unguided.codec.channels).to(images.device)
        return torch.where(self._unknown(sampler) > 0, images, known)

    def _unknown(self, sampler: Sampler) -> torch.Tensor:
        """The mask, float32 [1, 1, H, W], 1 where the image is generated anew."""
        return self.mask.mask_at(sampler.size, hole=True).to(sampler.device)


class Invert(Generate):
    """DDIM inversion (Song et al. 2021, sec. 5.4): the noise from which DDIM generates this very image.

    Without guidance the image is reconstructed; guidance edits it. corrections: fixed-point iterations of each step
    back, which needs the eps of a noisier image that is only known afterwards (Pan et al. 2023, arXiv 2309.04907);
    0 is the usual approximation.
    """

    scheduler_settings: ClassVar[dict] = {"clip_sample": False}  # clipping cannot be inverted
    one_condition = True

    def __init__(self, image: str, corrections: UpTo1000 = 3):
        super().__init__()
        self.image, self.corrections = ImageFile(image, "task.image"), corrections

    def specs(self, seed: int, n: int) -> list[SampleSpec]:
        return [SampleSpec("reconstruction", seed)]

    def start(self, sampler: Sampler, specs: Sequence[SampleSpec], generators: list[torch.Generator]) -> torch.Tensor:
        scheduler = sampler.schedule.scheduler
        if type(scheduler).__name__ != "DDIMScheduler" or getattr(scheduler, "eta", 0):
            raise UserError("task=invert inverts deterministic DDIM steps: use scheduler=ddim, without eta.")
        if sampler.recurrence > 1:
            raise UserError(
                "guidance.recurrence adds noise, after which task=invert cannot reconstruct: leave it at 1."
            )
        return self._noise_of(sampler.x0_of(self.image), sampler, sampler.cond(specs))

    @torch.no_grad()
    def _noise_of(self, image: torch.Tensor, sampler: Sampler, cond: Mapping) -> torch.Tensor:
        """Return x_T [1, C, H, W]: x_t = alpha_t x_0 + sigma_t eps with x_0 = (x_s - sigma_s eps) / alpha_s, s < t."""
        denoiser, schedule, x = sampler.unguided, sampler.schedule, image
        alpha_s, sigma_s = torch.ones_like(x[:1, :1, :1, :1]), torch.zeros_like(x[:1, :1, :1, :1])
        s: torch.Tensor | None = None  # the timestep of x, less noisy than t; None: clean
        for step in reversed(range(len(schedule))):
            t = schedule.timestep(step)
            alpha, sigma = denoiser.noise.alpha(t.view(1)), denoiser.noise.sigma(t.view(1))
            x_t, at = x, t if s is None else s
            for _ in range(self.corrections + 1):
                eps = denoiser(x_t, at, cond).eps
                x_t, at = alpha * (x - sigma_s * eps) / alpha_s + sigma * eps, t
            x, alpha_s, sigma_s, s = x_t, alpha, sigma, t
        return x

    def finish(self, sampler: Sampler, output: OutputFolder, specs: Sequence[SampleSpec]) -> list[str]:
        """Write grid.png, the image and its reconstruction; the PSNR of the two goes into settings.json."""
        generated = output.images([specs[0].name])
        image = pixels.as_rgb(self.image.at(sampler.size, channels=sampler.unguided.codec.channels))
        psnr = peak_signal_noise_ratio(generated.float(), image.float(), data_range=255.0)
        identical = torch.equal(generated, image)  # JSON has no infinity
        self.result["psnr"] = None if identical else round(float(psnr), 2)
        likeness = "identical" if identical else f"PSNR {psnr:.1f} dB"
        output.save_figure(pixels.grid(torch.cat([image, generated])), "grid")
        return [f"grid.png (the image and its reconstruction, {likeness})"]
