"""trajectory.png and its animation: x_t between noise and image above, the estimated x_0 below."""

import torch

from chrysalis.data import pixels
from chrysalis.sampling.grids import enlarged
from chrysalis.sampling.loop import Step
from chrysalis.sampling.output import OutputFolder


class TrajectoryRecorder:
    """Keeps moments of a trajectory's first images: `columns` of them for the figure, `frames` for the animation.

    A moment is the x_t that a step starts from, and the model's estimate of x_0.
    """

    def __init__(self, columns: int = 10, frames: int = 60, rows: int = 4):
        self.columns, self.frames, self.rows = columns, frames, rows
        self.moments: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self, x: torch.Tensor, evaluations: int) -> None:
        """Start at x, before so many evaluations of the UNet."""
        self.moments, self.x, self.last = {}, self._first_rows(x), evaluations - 1
        self.wanted = {i for count in (self.frames, self.columns) for i in _spread(evaluations, count)}

    def keep(self, step: Step) -> None:
        if step.i in self.wanted:
            self.moments[step.i] = (self.x, self._first_rows(step.x0))
        self.x = self._first_rows(step.x)
        if step.i == self.last:
            self.moments[step.i + 1] = (self.x, self.x)

    def finish(self, output: OutputFolder) -> list[str]:
        """Write the figures and return their names."""
        columns = [self.moments[i] for i in _spread(self.last + 1, self.columns)]
        rows = [
            torch.stack([moment[which][image] for moment in columns])
            for image in range(len(self.x))
            for which in (0, 1)
        ]
        figure = output.save_figure(pixels.strip(rows), "trajectory", enlarge=False)
        frames = [enlarged(pixels.strip(self.moments[i]), 256) for i in _spread(self.last + 1, self.frames)]
        return [figure, *output.animation.save(frames, output.path / "trajectory")]

    def _first_rows(self, x: torch.Tensor) -> torch.Tensor:
        return pixels.to_uint8(x[: self.rows]).cpu()


def _spread(last: int, count: int) -> list[int]:
    """`count` whole numbers evenly from 0 to last, both included; all of them if there are fewer."""
    count = min(count, last + 1)
    return [round(last * k / max(1, count - 1)) for k in range(count)]
