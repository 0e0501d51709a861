"""The timesteps of a trajectory: where each full step starts, and schedulers set to start at any of them."""

import copy
from collections.abc import Sequence

import diffusers
import torch

from chrysalis.sampling.schedulers import Scheduler
from chrysalis.system.errors import UserError, first_line

Segments = Sequence[tuple[int, int]]  # (first, last): full steps first .. last - 1, in the order they are taken


class TimestepSchedule:
    """The full steps of a scheduler, numbered from 0 (noise) to len(self) (clean images).

    Full step k goes from timestep(k) to timestep(k + 1); a second-order scheduler evaluates the UNet twice in it.

    Args:
        scheduler: as `schedulers.build` returns it; it is copied, never stepped.
        steps: number of full steps, 1 to the scheduler's num_train_timesteps.
        device: where the timesteps lie.
    """

    def __init__(self, scheduler: Scheduler, steps: int, device: torch.device | str = "cpu"):
        trained = scheduler.config.num_train_timesteps
        if steps > trained:
            raise UserError(f"steps={steps} must be at most the {trained} timesteps of the model.")
        self.scheduler = copy.deepcopy(scheduler)
        if steps == 1 and "timestep_spacing" in self.scheduler.config:
            # the other spacings would take the only step at t = 0, where almost all of the noise stays
            self.scheduler.register_to_config(timestep_spacing="trailing")
        try:
            self.scheduler.set_timesteps(steps)
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"steps={steps}: {first_line(error)}. Choose another number or scheduler.") from error
        self._require_usable(steps)
        timesteps = self.scheduler.timesteps
        if timesteps.is_floating_point():
            timesteps = timesteps.float()  # some are float64, which Apple GPUs do not have
        self.scheduler.timesteps = timesteps.to(device)
        self.device = self.scheduler.timesteps.device
        self.timesteps = list(self.scheduler.timesteps)
        # PNDM evaluates its first step twice, only to correct it: t0, t1, t1, t2, ...
        self.repeats_first = isinstance(scheduler, diffusers.PNDMScheduler) and len(self.timesteps) > 2
        if self.repeats_first:
            self.timesteps = [self.timesteps[0], *self.timesteps[2:]]
        self.order: int = getattr(scheduler, "order", 1)

    def _require_usable(self, steps: int) -> None:
        timesteps, sigmas = self.scheduler.timesteps, getattr(self.scheduler, "sigmas", None)
        trained, name = self.scheduler.config.num_train_timesteps, type(self.scheduler).__name__
        if sigmas is not None and len(sigmas) > 1 and float(sigmas[0]) == float(sigmas[-1]):
            raise UserError(f"steps={steps}: {name} takes no step at all with so few. Use more steps.")
        if not timesteps.isfinite().all():
            raise UserError(
                f"steps={steps}: {name} computes timesteps that are not finite on the model's noise schedule: "
                "choose another scheduler."
            )
        if timesteps.min() < 0 or timesteps.max() > trained - 1:
            raise UserError(f"steps={steps}: {name} goes outside the model's {trained} timesteps: change scheduler.*.")
        if steps == 1 and timesteps.max() < trained / 2:
            raise UserError(f"steps=1: {name} would start at t={float(timesteps.max()):g}, not at noise: use more.")

    def __len__(self) -> int:
        return -(-len(self.timesteps) // self.order)

    def timestep(self, step: int) -> torch.Tensor:
        """The timestep, a scalar, at which full step `step` starts; `step` is below len(self)."""
        return self.timesteps[step * self.order]

    def warning(self) -> str | None:
        """A sentence if the first timestep is far from pure noise, as with `leading` spacing that divides badly."""
        trained, first = self.scheduler.config.num_train_timesteps, float(self.timesteps[0])
        if len(self) < 20 or first > 0.85 * trained:
            return None
        return (
            f"steps={len(self)}: the scheduler would start at t={first:g} of {trained}, where half of an image is "
            f"already there. Choose a number that divides {trained}, or another scheduler."
        )

    def segment(self, first: int, last: int) -> tuple[Scheduler, list[torch.Tensor]]:
        """Return a scheduler without history and the timesteps where full steps first .. last - 1 evaluate the UNet."""
        scheduler = copy.deepcopy(self.scheduler)
        begin = first * self.order
        timesteps = self.timesteps[begin : last * self.order]
        if self.repeats_first and len(timesteps) > 1:
            timesteps = [timesteps[0], timesteps[1], *timesteps[1:]]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        return scheduler, timesteps

    def evaluations(self, segments: Segments) -> int:
        """Number of UNet evaluations that these segments take for one image."""
        return sum(len(self.segment(first, last)[1]) for first, last in segments)


def repeat_segments(segments: Segments, times: int, length: int = 1) -> list[tuple[int, int]]:
    """Cut the segments into pieces of at most `length` full steps, each taken `times` times in a row.

    length=1 is the recurrence of universal guidance (Bansal et al. 2023), longer ones the resampling jumps of
    RePaint (Lugmayr et al. 2022, arXiv 2201.09865).
    """
    if times == 1:
        return list(segments)
    pieces = [(k, min(k + length, last)) for first, last in segments for k in range(first, last, length)]
    return [piece for piece in pieces for _ in range(times)]
