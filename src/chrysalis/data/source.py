"""The interface of a data source."""

from typing import Protocol

from chrysalis.data.example import Example
from chrysalis.data.transforms import Resize


class Source(Protocol):
    """Rows that are read one by one, each an image with what is known of it.

    Attributes:
        name: how messages call it.
        vector_names: names of the numbers in a row's vector.
        note: a sentence on files that are not used, or "".
        synthetic: whether images are computed. They are then decoded in processes, and not searched for
            near-duplicates.
    """

    name: str
    vector_names: tuple[str, ...] = ()
    note: str = ""
    synthetic: bool = False

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a text that changes whenever what `read` returns would change."""
        ...

    def row_name(self, i: int) -> str: ...

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example:
        """Return row i at (height, width) `size`; raise any exception if its image cannot be used."""
        ...
