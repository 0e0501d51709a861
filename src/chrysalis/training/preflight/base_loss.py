"""The base model's loss before training, beside that of predicting zeros, and the time of its forward pass."""

import time
from dataclasses import dataclass

import torch

from chrysalis.conditions import batches
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.prediction import Prediction
from chrysalis.evaluation.validation_loss import fixed_timesteps, validation_loss
from chrysalis.system import memory
from chrysalis.system.terminal import stage
from chrysalis.training.callbacks.validation import validation_conditions
from chrysalis.training.module import eval_mode
from chrysalis.training.preflight.plan import Plan

MAX_SECONDS = 8.0  # seconds after which no further image is measured
IMAGES, TIMESTEPS = 4, 8  # validation images, and timesteps for each
BARELY_BETTER, CLEARLY_WORSE = 0.9, 1.1  # fractions of the loss of predicting zeros: in the mean, and at one timestep
CHECK = "Check that data.image_size, the pixel values (see data) and its scheduler_config.json match its training."


class Zeros(Denoiser):
    """A denoiser that predicts zeros."""

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: object = None) -> Prediction:
        return Prediction(torch.zeros_like(x_t), x_t, t, self.noise, self.objective)


@dataclass(frozen=True)
class BaseLoss:
    """Validation losses before training.

    loss, zeros: float32 [timesteps], of the model and of predicting zeros. seconds_per_pass: time of a forward pass,
    per image. conditions: number that a conditional model will be measured under, else 1. images: number measured.
    """

    timesteps: list[int]
    loss: torch.Tensor
    zeros: torch.Tensor
    seconds_per_pass: float
    conditions: int
    images: int = IMAGES

    def warning(self, prediction: str) -> str | None:
        """A warning about a pretrained model that is barely better than predicting zeros.

        Any trained model finds the noise, eps. At the noisier half of the timesteps v and x0 are nearly the image
        itself, and for images unlike its training images a good model can do worse there than zeros: they do not count.
        """
        counted = slice(None) if prediction == "epsilon" else slice((len(self.loss) + 1) // 2)
        loss, zeros = self.loss[counted], self.zeros[counted]
        fraction, by_timestep = (loss.mean() / zeros.mean()).item(), loss / zeros
        if not fraction <= BARELY_BETTER:  # NaN is doubtful too
            return f"The base model is hardly better than predicting zeros. {CHECK}"
        if by_timestep.max() > CLEARLY_WORSE:
            worst = self.timesteps[by_timestep.argmax()]
            return f"At timestep {worst} the base model is worse than predicting zeros. {CHECK}"
        return None


@torch.no_grad()
def measure(plan: Plan) -> BaseLoss | None:
    """Measure on the first validation images and their fixed noise; None if it does not fit in memory.

    The time is that of the fastest pass after a warm-up pass, since others may have been disturbed. Afterwards the
    module is in the state and on the device it was before.
    """
    module, denoiser = plan.module, plan.module.denoiser
    batch = plan.data.validation_batch(IMAGES)
    conditions = validation_conditions(batch, denoiser.conditioner)
    keys, right = batch.key.tolist(), conditions.get("right")
    at_once = 1 if plan.device.type == "cpu" else IMAGES  # images, each at every timestep
    parts = [range(first, min(first + at_once, len(keys))) for first in range(0, len(keys), at_once)]

    def loss(model: Denoiser, rows: range, cond: dict | None = None) -> torch.Tensor:
        chosen, micro_batch = slice(rows.start, rows.stop), min(plan.batch_size, at_once * TIMESTEPS)
        fixed = (batch.image[chosen], keys[chosen], TIMESTEPS, plan.validation.seed, micro_batch)
        return validation_loss(model, *fixed, cond=None if cond is None else batches.rows(cond, rows))

    device_before, losses, seconds = next(denoiser.parameters()).device, [], []
    try:
        module.to(plan.device)
        with eval_mode(plan.trainer, module), stage("base model's loss", len(keys) * TIMESTEPS) as progress:
            loss(denoiser, parts[0], right)
            for part in parts:
                began = time.perf_counter()
                losses.append(loss(denoiser, part, right))
                seconds.append((time.perf_counter() - began) / losses[-1].numel())
                progress.advance(losses[-1].numel())
                if progress.seconds() > MAX_SECONDS:
                    break
    except RuntimeError as error:
        if not memory.ran_out(error):
            raise
        return None
    finally:
        module.to(device_before)
    zero = Zeros(torch.nn.Identity(), denoiser.scheduler, denoiser.objective).to(plan.device)
    zeros = torch.cat([loss(zero, part) for part, _ in zip(parts, losses, strict=False)]).mean(0)
    timesteps, mean = fixed_timesteps(len(denoiser.noise), TIMESTEPS).tolist(), torch.cat(losses).mean(0)
    return BaseLoss(timesteps, mean, zeros, min(seconds), max(1, len(conditions)), sum(map(len, losses)))
