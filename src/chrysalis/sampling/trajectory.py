"""The way from noise to image, as a strip and as an animation: x_t above, the x_0 expected of it below."""

from pathlib import Path

import torch

from chrysalis.data import pixels
from chrysalis.sampling.grids import FORMATS, enlarged, save_film
from chrysalis.sampling.loop import Step
from chrysalis.sampling.tasks import Animation
from chrysalis.system.errors import require_whole


class Trajectory:
    """Keeps moments of the first `rows` images: trajectory_columns for the strip, animation.frames for the film."""

    def __init__(self, animation: Animation, trajectory_columns: int = 10, rows: int = 4):
        require_whole("trajectory_columns", trajectory_columns, least=2)
        self.animation, self.trajectory_columns, self.rows = animation, trajectory_columns, rows
        self.kept: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def forget(self, out: Path) -> None:
        """What lies there was asked for otherwise."""
        for file in (out / f"trajectory.{name}" for name in ("png", *FORMATS)):
            file.unlink(missing_ok=True)

    def is_there(self, out: Path) -> bool:
        return all(file.is_file() for file in [out / "trajectory.png", *self._films(out)])

    def _films(self, out: Path) -> list[Path]:
        return [out / f"trajectory.{name}" for name in self.animation.formats]

    def begin(self, x: torch.Tensor, evaluations: int) -> None:
        """x: the start. evaluations: how many steps follow."""
        self.kept, self.before = [], self._small(x)
        self.last = evaluations - 1
        self.wanted = {
            i for count in (self.animation.frames, self.trajectory_columns) for i in _spread(evaluations, count)
        }

    def keep(self, step: Step) -> None:
        """A moment is the x that a step starts from, and the x_0 that the model expects of it."""
        if step.i in self.wanted:
            self.kept.append((step.i, self.before, self._small(step.x0)))
        self.before = self._small(step.x)
        if step.i == self.last:
            self.kept.append((step.i + 1, self.before, self.before))

    def finish(self, out: Path, text: dict[str, str]) -> list[str]:
        """trajectory.png and trajectory.gif ...; nothing if this process did not draw the first batch."""
        if not self.kept:
            return []
        at = {i: (x, x0) for i, x, x0 in self.kept}
        columns = [at[i] for i in _spread(self.last + 1, self.trajectory_columns)]
        rows = [
            torch.stack([moment[which][spec] for moment in columns])
            for spec in range(len(self.before))
            for which in (0, 1)
        ]
        pixels.save_png(pixels.strip(rows), out / "trajectory.png", text)
        frames = [enlarged(pixels.strip(list(at[i])), 256) for i in _spread(self.last + 1, self.animation.frames)]
        save_film(frames, out / "trajectory", self.animation.formats, self.animation.seconds)
        return ["trajectory.png", *(file.name for file in self._films(out))]

    def _small(self, x: torch.Tensor) -> torch.Tensor:
        return pixels.to_uint8(x[: self.rows]).cpu()


def _spread(last: int, count: int) -> list[int]:
    """`count` numbers from 0 to last, both included, evenly; all of them if there are fewer."""
    count = min(count, last + 1)
    return [round(last * k / max(1, count - 1)) for k in range(count)]
