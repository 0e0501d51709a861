"""What the images are to show, as the user names it: label=monarch, text="...", mask=file.png."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.image_source import made
from chrysalis.data import pixels
from chrysalis.data.example import composed
from chrysalis.data.formats import suffixes
from chrysalis.data.image_file import ImageFile
from chrysalis.data.synthetic.domains import DOMAINS, draw
from chrysalis.data.transforms import mask_to_training_size
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import warn

NAMES = ("label", "text", "mask", "image", "vector")
UNSEEN = 2  # the seed of drawn masks: the drawn sets have 0

Value = int | str | tuple | Callable[[int, tuple[int, int]], torch.Tensor]


class Request:
    """Rows of conditions: every key holds one value, which all rows share, or a list of one value a row.

    given: {"label": ..., "text": ..., ...} with None for what is not asked for. key: what stands before the names, as
    in guidance.negative.label. origin: the model, for messages.
    """

    def __init__(self, conditioner: Conditioner | None, given: Mapping, origin: str | None, key: str = ""):
        self.conditioner, self.key = conditioner, key
        known = [] if conditioner is None else conditioner.names
        self.values: dict[str, list[Value]] = {}
        self.shown: dict[str, list[str]] = {}
        for name, value in given.items():
            if value is None:
                continue
            if name not in known:
                told = f"is told {', '.join(known)} only" if known else "is unconditional, and is told nothing"
                raise UserError(f"{key}{name}={value}, but {origin} {told}: train one with condition={name}.")
            listed = self._listed(name, value)
            self.values[name], self.shown[name] = [self._read(name, v) for v in listed], [str(v) for v in listed]
        lengths = {name: len(values) for name, values in self.values.items()}
        self.rows = max(lengths.values(), default=1)
        for name, length in lengths.items():
            if length not in (1, self.rows):
                raise UserError(f"{key}{name} has {length} values and another key {self.rows}: give as many, or one.")

    def _listed(self, name: str, value) -> list:
        if name == "label" and value == "all":
            return list(self.conditioner.embeddings["label"].names)
        if name == "vector":
            nested = isinstance(value, Sequence) and value and not isinstance(value[0], int | float)
            return list(value) if nested else [value]
        values = [value] if isinstance(value, str | int | float) else list(value)
        if any(v is None for v in values):
            raise UserError(f"{self.key}{name}={value}: an empty value cannot stand in a list.")
        if not values:
            raise UserError(f"{self.key}{name}=[] is empty: leave it out to draw without it.")
        return values

    def _read(self, name: str, value) -> Value:
        key = f"{self.key}{name}"
        if name == "label":
            return self._label(key, str(value))
        if name == "text":
            return self._text(key, composed(str(value)))
        if name == "vector":
            return self._vector(key, value)
        if name == "mask" and value in DOMAINS:
            return lambda seed, size: drawn_mask(value, seed, size)
        source = self.conditioner.config.parts[name].get("source", "given")
        folder = Path(str(value)).expanduser()
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes()) if folder.is_dir() else [folder]
        if not files:
            raise UserError(f"{key}={value} has no images in it.")
        first = ImageFile(str(files[0]), key)

        def read(seed: int, size: tuple[int, int]) -> torch.Tensor:
            file = ImageFile(str(files[seed % len(files)]), key) if len(files) > 1 else first
            if name == "mask":
                return 2 * file.mask_at(size, both=False)[0] - 1
            return made(file.at(size), source)[0]

        return read

    def _label(self, key: str, value: str) -> int:
        known = self.conditioner.embeddings["label"].names
        with suppress(ValueError):
            return self.conditioner.embeddings["label"].place(value)
        near = difflib.get_close_matches(value, known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        shown = ", ".join(known[:40]) + (f" and {len(known) - 40} more" if len(known) > 40 else "")
        raise UserError(f"{key}={value} is unknown to this model.{hint} It knows {shown}.")

    def _text(self, key: str, value: str) -> str:
        encoder = self.conditioner.text.encoder
        unknown = [] if encoder is None else encoder.unknown(value)
        if unknown and len(unknown) == len(encoder.split(value)):
            some = ", ".join(list(encoder.words)[:40])
            raise UserError(f"{key}={value}: this model knows none of these words. It knows {some} ...")
        if unknown:
            warn(f"{key}: the model has never read {', '.join(dict.fromkeys(unknown))}, which is left out.")
        return value

    def _vector(self, key: str, value) -> tuple[float, ...]:
        names = self.conditioner.embeddings["vector"].names
        numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if len(numbers) != len(names) or any(not isinstance(v, int | float) or isinstance(v, bool) for v in numbers):
            raise UserError(f"{key}={value} must be {len(names)} numbers: [{','.join(names)}].")
        return tuple(float(v) for v in numbers)

    def row_name(self, row: int) -> str:
        """What tells this row from the others, in words."""
        differing = [values[row] for values in self.shown.values() if len(values) > 1]
        return ", ".join(Path(v).stem if "/" in v else v for v in differing)

    def file_name(self, row: int) -> str:
        """The same, as part of a file's name."""
        return re.sub(r"[^\w.+-]+", "-", self.row_name(row)).strip("-")[:60]

    def cond(self, rows: Sequence[int], seeds: Sequence[int], size: tuple[int, int], device) -> dict:
        """The condition of B images, of these rows and seeds. size: (height, width)."""
        out: dict = {}
        for name, values in self.values.items():
            own = [values[row % len(values)] for row in rows]
            if name == "text":
                out[name] = tuple(own)
            elif name in ("label", "vector"):
                out[name] = torch.tensor(own, device=device)
            else:
                out[name] = torch.stack([read(seed, size) for read, seed in zip(own, seeds, strict=True)]).to(device)
        return out

    def missing(self) -> str | None:
        """A sentence on what a conditional model was not asked for."""
        left = [
            name for name in (self.conditioner.names if self.conditioner is not None else []) if name not in self.values
        ]
        if not left:
            return None
        hint = {"label": "label=NAME, or label=all for {}", "text": 'text="..."', "mask": "mask=FILE.png"}
        hint |= {"image": "image=FILE.png", "vector": "vector=[{}]"}
        names = {n: ", ".join(self.conditioner.embeddings[n].names[:12]) for n in left if n in ("label", "vector")}
        how = "; ".join(hint[name].format(names.get(name, "")) for name in left)
        return f"drawn without {' and '.join(left)}, through the model's null. To ask for it: {how}"


def drawn_mask(domain: str, seed: int, size: tuple[int, int]) -> torch.Tensor:
    """float [1, H, W], 1 inside and -1 outside, of a sample that no drawn set holds."""
    mask = Image.fromarray(draw(domain, seed, UNSEEN, max(size)).mask)
    return pixels.to_signed(torch.from_numpy(mask_to_training_size(mask, size, "crop").copy()))
