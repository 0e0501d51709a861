"""The folder of generated images: complete PNG files that record how to generate them again, and the trajectory."""

from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from chrysalis.data import pixels
from chrysalis.data.pixels import PixelCodec
from chrysalis.sampling.animation import Animation
from chrysalis.sampling.grids import enlarged_to, read
from chrysalis.sampling.loop import Step
from chrysalis.sampling.record import SamplingRecord

MOST_IN_FIGURES = 64  # images in a grid, and images that stay in memory for it


class ImageWriter(ThreadPoolExecutor):
    """Threads that write images while the next ones are generated; leaving the `with` block waits for all of them.

    threads: their number; they mostly wait for the disk. max_waiting: length of the queue at which `save` waits too.
    """

    def __init__(self, threads: int = 4, max_waiting: int = 32):
        super().__init__(threads, thread_name_prefix="writing")
        self.max_waiting = max_waiting
        self.waiting: deque[Future] = deque()

    def save(self, image: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
        """Have pixels.save_png write the image later; raises the error of an earlier one."""
        while self.waiting and (self.waiting[0].done() or len(self.waiting) >= self.max_waiting):
            self.waiting.popleft().result()
        self.waiting.append(self.submit(pixels.save_png, image, path, text))

    def __exit__(self, exc_type, exc_val, exc_tb) -> None:
        """Wait for all images, after an error too; raise the error of one, unless there is one already."""
        super().__exit__(exc_type, exc_val, exc_tb)
        if exc_val is None:
            for future in self.waiting:
                future.result()


class OutputFolder:
    """The generated images in the folder `path`, by name; raises UserError for a folder of other images.

    The images named by `keep_in_memory` are not read again for figures; others, such as those of other processes or
    of an earlier, stopped command, are read from their files.
    """

    def __init__(self, path: Path, record: SamplingRecord, animation: Animation):
        self.path, self.record, self.animation = path, record, animation
        self.keep_in_memory: Collection[str] = ()
        self._in_memory: dict[str, torch.Tensor] = {}
        record.require_same_images(path)

    def file(self, name: str) -> Path:
        return self.path / f"{name}.png"

    def lacks(self, name: str) -> bool:
        """Whether the image is asked for and its file is not complete: each part of a PNG file has a checksum."""
        if self.record.only_image not in (None, name):
            return False
        try:
            with Image.open(self.file(name)) as image:
                image.verify()
        except (OSError, ValueError, SyntaxError, EOFError):
            return True
        return False

    def add(self, name: str, image: torch.Tensor, writer: ImageWriter) -> None:
        """Write an image, uint8 [C, H, W], if the folder lacks it."""
        if not self.lacks(name):
            return
        if name in self.keep_in_memory:
            self._in_memory[name] = pixels.as_rgb(image[None])[0]
        writer.save(image, self.file(name), self.record.metadata(name))

    def images(self, names: Sequence[str]) -> torch.Tensor:
        """Return the images of these names, uint8 [B, 3, H, W]; their files must be complete."""
        in_memory = self._in_memory
        return torch.stack([in_memory[name] if name in in_memory else read(self.file(name)) for name in names])

    def save_figure(self, sheet: torch.Tensor, name: str, enlarge: bool = True) -> str:
        """Write a figure, uint8 [3, h, w], and return its file name. enlarge: small ones, so that they can be seen."""
        save = pixels.save_sheet if enlarge else pixels.save_png
        save(sheet, self.file(name), {"command": self.record.command})
        return f"{name}.png"


class TrajectoryRecorder:
    """trajectory.png and its animation: x_t between noise and image above, the estimated x_0 below.

    It keeps moments of a trajectory's first images: `columns` for the figure, `frames` for the animation. A moment,
    uint8 [2, rows, 3, H, W], is the x_t that a step starts from, and the model's estimate of x_0.
    """

    def __init__(self, columns: int = 10, frames: int = 60, rows: int = 4):
        self.columns, self.frames, self.rows = columns, frames, rows

    def begin(self, x: torch.Tensor, evaluations: int, codec: PixelCodec) -> None:
        """Start at x, before `evaluations` calls of the UNet. codec: the denoiser's."""
        self.moments: dict[int, torch.Tensor] = {}
        self.codec = codec
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
        rows = columns.transpose(0, 1).flatten(0, 1)  # x_t and x_0 of each image: [2 * rows, columns, 3, H, W]
        figure = output.save_figure(pixels.strip(rows.unbind()), "trajectory", enlarge=False)
        moments = [self.moments[i] for i in _spread(self.evaluations, self.frames)]
        frames = [enlarged_to(pixels.strip(moment.unbind()), 256) for moment in moments]
        return [figure, *output.animation.save(frames, output.path / "trajectory")]

    def _first_rows(self, x: torch.Tensor) -> torch.Tensor:
        return self.codec.decode(x[: self.rows]).cpu()


def _spread(last: int, count: int) -> list[int]:
    """`count` whole numbers evenly from 0 to last, both included; all of them if there are fewer."""
    count = min(count, last + 1)
    return [round(last * k / max(1, count - 1)) for k in range(count)]
