"""Images on their way to the disk while the next ones are drawn."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from chrysalis.data import pixels


class ImageWriter:
    """Threads that encode, sync and rename images. With `with`: at the end all are written, or their error raised.

    threads: most of their time is waiting for the disk. most: how many images may wait; then `save` waits too.
    """

    def __init__(self, threads: int = 4, most: int = 32):
        self.most = most
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writing")
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> "ImageWriter":
        return self

    def save(self, image: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
        """pixels.save_png, later. Raises what an earlier image met with."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self.most):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(pixels.save_png, image, path, text))

    def __exit__(self, kind, error, traceback) -> None:
        self._pool.shutdown(wait=True)  # also after an error: what has been drawn is kept
        if error is None:
            for future in self._waiting:
                future.result()
