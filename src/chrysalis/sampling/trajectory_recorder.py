"""trajectory.png and its animation: x_t between noise and image above, the estimated x_0 below."""

import torch

from chrysalis.data import pixels
from chrysalis.sampling.grids import enlarged
from chrysalis.sampling.loop import Step
from chrysalis.sampling.output import OutputFolder


class TrajectoryRecorder:
    """Keeps moments of a trajectory's first images: `columns` of them for the figure, `frames` for the animation.

    A moment, uint8 [2, rows, 3, H, W], is the x_t that a step starts from, and the model's estimate of x_0.
    """

    def __init__(self, columns: int = 10, frames: int = 60, rows: int = 4):
        self.columns, self.frames, self.rows = columns, frames, rows

    def begin(self, x: torch.Tensor, evaluations: int) -> None:
        """Start at x, before so many evaluations of the UNet."""
        self.moments: dict[int, torch.Tensor] = {}
        self.x, self.evaluations = self._first_rows(x), evaluations
        self.recorded = {*_spread(evaluations, self.frames), *_spread(evaluations, self.columns)}

    def keep(self, step: Step) -> None:
        """Keep the moment before this step if it is recorded; after the last one, x is its own estimate."""
        if step.i in self.recorded:
            self.moments[step.i] = torch.stack([self.x, self._first_rows(step.x0)])
        self.x = self._first_rows(step.x)
        if step.i + 1 == self.evaluations:
            self.moments[self.evaluations] = torch.stack([self.x, self.x])

    def finish(self, output: OutputFolder) -> list[str]:
        """Write the figures and return their names."""
        columns = torch.stack([self.moments[i] for i in _spread(self.evaluations, self.columns)], dim=2)
        rows = columns.transpose(0, 1).flatten(0, 1)  # of each image x_t and x_0: [2 * rows, columns, 3, H, W]
        figure = output.save_figure(pixels.strip(rows.unbind()), "trajectory", enlarge=False)
        moments = [self.moments[i] for i in _spread(self.evaluations, self.frames)]
        frames = [enlarged(pixels.strip(moment.unbind()), 256) for moment in moments]
        return [figure, *output.animation.save(frames, output.path / "trajectory")]

    def _first_rows(self, x: torch.Tensor) -> torch.Tensor:
        return pixels.to_uint8(x[: self.rows]).cpu()


def _spread(last: int, count: int) -> list[int]:
    """`count` whole numbers evenly from 0 to last, both included; all of them if there are fewer."""
    count = min(count, last + 1)
    return [round(last * k / max(1, count - 1)) for k in range(count)]
