"""Writing images in threads while the next ones are generated."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from chrysalis.data import pixels


class ImageWriter:
    """Threads that encode, sync and rename images; leaving the `with` block waits for all or raises their error.

    threads: most of their time they wait for the disk. most: number of waiting images from which on `save` waits too.
    """

    def __init__(self, threads: int = 4, most: int = 32):
        self.most = most
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writing")
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> "ImageWriter":
        return self

    def save(self, image: torch.Tensor, path: Path, text: dict[str, str] | None = None) -> None:
        """Have pixels.save_png write the image later; raises the error of an earlier one."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self.most):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(pixels.save_png, image, path, text))

    def __exit__(self, kind, error, traceback) -> None:
        self._pool.shutdown(wait=True)  # after an error too: what has been generated is kept
        if error is None:
            for future in self._waiting:
                future.result()
