"""A data source, images of one colour each, and the function that makes its data module.

python train.py plugins=my_source.py data._target_=my_source.colours '~data.domain' data.n=50
"""

import numpy as np

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.source import Example, Source


class Colours(Source):
    name = "plain colours"

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def fingerprint(self) -> str:  # the decoded set is cached under it
        return f"colours {self.n}"

    def row_name(self, i: int) -> str:
        return f"colour {i}"

    def read(self, i: int, shape: tuple[int, int, int], resize: str) -> Example:
        colour = np.random.default_rng(i).integers(0, 256, (3, 1, 1), dtype=np.uint8)
        return Example(np.tile(colour, shape[1:]), content=i)


def colours(n: int = 100, **loading) -> ImageDataModule:
    return ImageDataModule(Colours(n), **loading)
