"""The conditions to sample with, as a user gives them: label=monarch, text="...", mask=file.png, or a list of each."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chrysalis.conditions.conditioner import Conditioner, InputChannels
from chrysalis.conditions.kind import Value
from chrysalis.conditions.kinds import kinds_of
from chrysalis.system.errors import UserError


class Request:
    """Rows of conditions: each key has one value, which all rows share, or a list of one value per row.

    conditioner: the model's; None for an unconditional one. given: {"label": ..., "text": ..., ...}, None for what is
    not set. origin: the model's folder or hub id, for messages. key: prefix of the names as the user set
    them, such as `guidance.negative.`.
    """

    def __init__(self, conditioner: Conditioner | None, given: Mapping, origin: str | None, key: str = ""):
        self.kinds = kinds_of(conditioner)
        self.values: dict[str, list[Value]] = {}
        self.shown: dict[str, list[str]] = {}
        for name, value in given.items():
            if value is None:
                continue
            if name not in self.kinds:
                actual = f"is conditioned on {', '.join(self.kinds)} only" if self.kinds else "is unconditional"
                raise UserError(f"{key}{name}={value}, but {origin} {actual}: train a model with condition={name}.")
            listed = self.kinds[name].listed(f"{key}{name}", value)
            self.values[name] = [self.kinds[name].parse(f"{key}{name}", v) for v in listed]
            self.shown[name] = [str(v) for v in listed]
        self.n_rows = max(map(len, self.values.values()), default=1)
        for name, given_values in self.values.items():
            if (n := len(given_values)) not in (1, self.n_rows):
                raise UserError(
                    f"{key}{name} has {n} values and another key {self.n_rows}: give {self.n_rows}, or one."
                )

    @property
    def spatial(self) -> list[str]:
        """Names of the given conditions that are images, such as masks."""
        return [name for name in self.values if isinstance(self.kinds[name].part, InputChannels)]

    def row_name(self, row: int) -> str:
        """The values in which this row differs from others."""
        differing = [values[row] for values in self.shown.values() if len(values) > 1]
        return ", ".join(Path(v).stem if "/" in v else v for v in differing)

    def metadata(self, row: int) -> dict[str, str]:
        """Return the row's label and caption, by their keys in a metadata.jsonl."""
        named = {name: values for name, values in self.shown.items() if name in ("label", "text")}
        return {name: values[row % len(values)] for name, values in named.items()}

    def file_name(self, row: int) -> str:
        """The row's name as part of a file name."""
        return re.sub(r"[^\w.+-]+", "-", self.row_name(row)).strip("-")[:60]

    def cond(self, rows: Sequence[int], seeds: Sequence[int], size: tuple[int, int], device) -> dict:
        """The condition of B images from their rows and seeds. size: (height, width)."""
        return {
            name: self.kinds[name].stack([values[row % len(values)] for row in rows], seeds, size, device)
            for name, values in self.values.items()
        }

    def missing(self) -> str | None:
        """A sentence on the conditions of the model that are not set; None if all are."""
        left = [name for name in self.kinds if name not in self.values]
        if not left:
            return None
        hints = "; ".join(self.kinds[name].hint() for name in left)
        return f"sampling without {' and '.join(left)}. To set {'them' if left[1:] else 'it'}: {hints}"
