"""Where pictures come from: drawn, a folder, or a dataset of the Hugging Face hub."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from chrysalis import hub
from chrysalis.data.transforms import Resize, mask_to_training_size, to_training_size
from chrysalis.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
OFFLINE_HINT = "data=butterflies is drawn here and needs no network."


@dataclass(frozen=True)
class Picture:
    """One row at training size. `content` is a hash of the picture's own bytes, whatever its name or place."""

    image: np.ndarray  # uint8 [3, H, W]
    content: int
    label: str | None = None
    caption: str | None = None
    mask: np.ndarray | None = None  # uint8 [1, H, W]


class Source(Protocol):
    """Rows that are read one by one; `read` raises any exception on a picture that cannot be used."""

    name: str

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Changes when what `read` returns would change."""

    def row_name(self, i: int) -> str: ...

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Picture: ...


def content_hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


class Drawn:
    """`n` pictures of a drawn domain: butterflies, moths or flowers. Needs no file and no network."""

    def __init__(self, domain: str = "butterflies", n: int = 1000, seed: int = 0):
        from chrysalis.data.butterflies import DOMAINS

        if domain not in DOMAINS:
            raise UserError(f"data.domain={domain} is unknown: choose one of {', '.join(DOMAINS)}.")
        if n < 2:
            raise UserError(f"data.n={n} must be at least 2: one picture to learn from, one to hold out.")
        self.name, self.domain, self.n, self.seed = f"drawn {domain}", domain, n, seed

    def __len__(self) -> int:
        return self.n

    def fingerprint(self) -> str:
        folder = Path(__file__).parent
        code = b"".join(p.read_bytes() for p in [folder / "butterflies.py", *sorted((folder / "drawing").glob("*.py"))])
        return f"drawn {self.domain} {self.n} {self.seed} {content_hash(code)}"

    def row_name(self, i: int) -> str:
        return f"{self.domain} {i}"

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Picture:
        from chrysalis.data.butterflies import draw, species_names

        drawn = draw(self.domain, i, self.seed, max(size))
        image, mask = Image.fromarray(drawn.image), Image.fromarray(drawn.mask)
        return Picture(
            to_training_size(image, size, resize),
            content_hash(f"{self.domain} {i} {self.seed}".encode()),
            species_names(self.domain)[drawn.label],
            drawn.caption,
            mask_to_training_size(mask, size, resize),
        )


class Folder:
    """Every picture below `path`, or exactly those that its metadata.jsonl lists.

    metadata.jsonl has one object a line: `file_name`, and as far as known `label`, `text` (or `caption`) and
    `mask_file_name`. Without it labels are the names of the folders that pictures lie in, and a caption is a
    .txt file of the picture's name.
    """

    def __init__(self, path: str):
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise UserError(f"data.path={path} is not a folder. {_nearest_folder(self.path)}".strip())
        self.name = str(self.path)
        self.rows = self._from_metadata() if (self.path / "metadata.jsonl").is_file() else self._from_files()
        if not self.rows:
            raise UserError(f"data.path={path} has no pictures in it: looked for {', '.join(sorted(SUFFIXES))} files.")

    def _from_files(self) -> list[dict]:
        files = sorted(p for p in _walk(self.path) if p.suffix.lower() in SUFFIXES)
        labelled = any(p.parent != self.path for p in files)
        return [{"file": p, "label": p.parent.relative_to(self.path).as_posix() if labelled else None} for p in files]

    def _from_metadata(self) -> list[dict]:
        rows, listing = [], self.path / "metadata.jsonl"
        for number, line in enumerate(listing.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                file = self._below(entry["file_name"])
                mask = entry.get("mask_file_name")
                label = entry.get("label")
                caption = entry.get("text", entry.get("caption"))
                rows.append(
                    {
                        "file": file,
                        "label": None if label is None else str(label),
                        "caption": None if caption is None else str(caption),
                        "mask": self._below(mask) if mask else None,
                    }
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{listing} line {number} is not an object with a file_name inside the folder: mend or remove it."
                ) from None
        return rows

    def _below(self, name: str) -> Path:
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise ValueError(name)
        return path

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        parts = []
        for row in self.rows:
            for file in (row["file"], row.get("mask"), row["file"].with_suffix(".txt")):
                if file is not None and file.exists():
                    stat = file.stat()
                    parts.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
            parts.append(f"{row.get('label')} {row.get('caption')}")
        return f"folder {content_hash(chr(10).join(parts).encode())}"

    def row_name(self, i: int) -> str:
        return str(self.rows[i]["file"])

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Picture:
        row = self.rows[i]
        data = row["file"].read_bytes()
        caption, beside = row.get("caption"), row["file"].with_suffix(".txt")
        if caption is None and beside.is_file():
            caption = beside.read_text(encoding="utf-8").strip()
        mask = None
        if row.get("mask"):
            with Image.open(row["mask"]) as opened:
                mask = mask_to_training_size(opened, size, resize)
        with Image.open(io.BytesIO(data)) as image:
            return Picture(to_training_size(image, size, resize), content_hash(data), row["label"], caption, mask)


class Hub:
    """A dataset of the hub by id, or a local folder of parquet or arrow files, through `datasets`."""

    def __init__(
        self,
        path: str,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = None,
        caption_column: str | None = None,
    ):
        self.name, self.rows = path, _load(path, split)
        self.columns = {"image": image_column, "label": label_column, "caption": caption_column}
        for what, column in self.columns.items():
            if column is not None and column not in self.rows.column_names:
                have = ", ".join(self.rows.column_names)
                raise UserError(f"data.{what}_column={column} is not a column of {path}: it has {have}.")
        from datasets import Image as ImageFeature

        used = list(dict.fromkeys(column for column in self.columns.values() if column))
        self.rows = self.rows.select_columns(used).cast_column(image_column, ImageFeature(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return f"hub {self.rows._fingerprint} {self.columns}"

    def row_name(self, i: int) -> str:
        return f"{self.name} row {i}"

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Picture:
        row = self.rows[i]
        entry = row[self.columns["image"]]
        data = entry["bytes"] if entry["bytes"] is not None else Path(entry["path"]).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            pixels = to_training_size(image, size, resize)
        return Picture(pixels, content_hash(data), self._label(row), self._caption(row))

    def _label(self, row: dict) -> str | None:
        column = self.columns["label"]
        if column is None or row[column] is None:
            return None
        feature = self.rows.features[column]
        return feature.int2str(row[column]) if hasattr(feature, "int2str") else str(row[column])

    def _caption(self, row: dict) -> str | None:
        column = self.columns["caption"]
        return None if column is None or row[column] is None else str(row[column])


def _load(path: str, split: str):
    folder = Path(path).expanduser()
    local = folder.is_dir()
    if not local and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise UserError(
            f"data.path={path} is neither a folder nor a hub id like huggan/smithsonian_butterflies_subset."
        )
    only_cached = not local and hub.unreachable()
    import datasets

    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE or only_cached
    try:
        if local and any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _of_split(datasets.load_from_disk(str(folder)), split)
        return datasets.load_dataset(str(folder) if local else path, split=split)
    except Exception as error:  # the hub's client and the readers raise dozens of kinds
        first = (str(error) or type(error).__name__).splitlines()[0]
        if local:
            raise UserError(
                f"data.path={path}, data.split={split} could not be loaded as a dataset: {first}"
            ) from error
        why = "there is no network" if only_cached else first
        raise UserError(f"data.path={path} could not be fetched from the hub: {why}. {OFFLINE_HINT}") from error


def _of_split(rows, split: str):
    """`split` of what save_to_disk wrote: a set of splits, or one that may know its name."""
    if hasattr(rows, "keys"):
        if split not in rows:
            raise ValueError(f"it has the splits {', '.join(rows)}")
        return rows[split]
    if rows.split is not None and str(rows.split) != split:
        raise ValueError(f"it is the split {rows.split}")
    return rows


def _walk(root: Path) -> Sequence[Path]:
    """Visible files below `root` through linked folders too, each folder once, so that a loop of links ends."""
    found, seen = [], set()
    for here, folders, names in os.walk(root, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here) / name for name in names if not name.startswith(".")]
    return found


def _nearest_folder(path: Path) -> str:
    parent = path.absolute()
    while not parent.is_dir():
        parent = parent.parent
    inside = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))[:8]
    return f"The last part of it that exists is {parent}" + (f", which holds {', '.join(inside)}." if inside else ".")
