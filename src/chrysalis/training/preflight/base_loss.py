"""How a base model does before it learns, beside one that predicts nothing, and how long its forward pass takes."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from chrysalis.conditions import batches
from chrysalis.denoiser import Denoiser
from chrysalis.evaluation.validation_loss import fixed_timesteps, validation_loss
from chrysalis.system import memory
from chrysalis.system.terminal import stage
from chrysalis.training.callbacks.validation import conditions
from chrysalis.training.eval_mode import evaluating
from chrysalis.training.preflight.plan import Plan

LONG = 8.0  # seconds after which no further image is measured
IMAGES, BINS = 4, 8  # of the validation set, and timesteps of each
NO_BETTER = 0.9  # of the loss of predicting nothing, over all bins
# In one bin. Any model that learned to finds the noise; what v and x0 ask for at high noise is the image itself,
# where images unlike those that a good model knows can cost it more than mid-grey does.
CLEARLY_WORSE = {"epsilon": 1.1, "v_prediction": 1.5, "sample": 1.5}
ASKED = "Is data.image_size, the value range or the schedule what it was trained with?"


class Nothing(nn.Module):
    """In a UNet's place: its output is zero."""

    dtype = torch.float32

    def __init__(self, channels: int):
        super().__init__()
        self.config = type("config", (), {"in_channels": channels})

    def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (torch.zeros_like(x),)


@dataclass(frozen=True)
class Base:
    """loss, nothing: float32 [bins], held out, of the model as it is and of a zero output at `timesteps`.

    seconds: of a forward pass, per image. images: how many were measured. told: in how many ways a conditional model
    is measured, 1 of others.
    """

    timesteps: list[int]
    loss: torch.Tensor
    nothing: torch.Tensor
    seconds: float
    told: int
    images: int = IMAGES

    def doubt(self, prediction: str) -> str | None:
        """What to ask of a pretrained model that is hardly better than nothing; None of one that is."""
        share, by_bin = (self.loss.mean() / self.nothing.mean()).item(), self.loss / self.nothing
        if not share <= NO_BETTER:  # not-a-number is a doubt too
            return f"The base model is hardly better than predicting nothing here. {ASKED}"
        if by_bin.max() > CLEARLY_WORSE[prediction]:
            return f"At timestep {self.timesteps[by_bin.argmax()]} the base model is worse than nothing. {ASKED}"
        return None


@torch.no_grad()
def measured(plan: Plan) -> Base | None:
    """On the first validation images and their fixed triples, timed after a first pass; None if it does not fit.

    Of several timed passes the shortest counts: the others were disturbed.
    The module is as it was afterwards, and on the device where it was.
    """
    module, denoiser = plan.module, plan.module.denoiser
    batch = plan.data.validation_batch(IMAGES)
    told = conditions(batch, denoiser.conditioner)
    keys, cond = batch.key.tolist(), told.get("right")
    at_once = 1 if plan.on.type == "cpu" else IMAGES  # of images, each at every timestep

    def loss(of_model: Denoiser, first: int, cond: dict | None = None) -> torch.Tensor:
        rows = range(first, min(first + at_once, len(keys)))
        those = slice(rows.start, rows.stop)
        fixed = (batch.image[those], keys[those], BINS, plan.validation.seed, min(plan.data.batch_size, at_once * BINS))
        return validation_loss(of_model, *fixed, cond=None if cond is None else batches.rows(cond, rows))

    here, ours, seconds = next(denoiser.parameters()).device, [], []
    try:
        with evaluating(plan.trainer, module.to(plan.on)), stage("base model's loss", len(keys) * BINS) as at:
            loss(denoiser, 0, cond)
            for first in range(0, len(keys), at_once):
                began = time.perf_counter()
                ours.append(loss(denoiser, first, cond))
                seconds.append((time.perf_counter() - began) / ours[-1].numel())
                at.advance(ours[-1].numel())
                if at.seconds() > LONG:
                    break
    except RuntimeError as error:
        if not memory.ran_out(error):
            raise
        return None
    finally:
        module.to(here)
    zero = Denoiser(Nothing(denoiser.channels), denoiser.scheduler, denoiser.objective).to(plan.on)
    nothing = [loss(zero, first) for first in range(0, len(keys), at_once)][: len(ours)]
    ours, nothing = (torch.cat(losses) for losses in (ours, nothing))
    timesteps = fixed_timesteps(len(denoiser.noise), BINS).tolist()
    return Base(timesteps, ours.mean(0), nothing.mean(0), min(seconds), max(1, len(told)), len(ours))
