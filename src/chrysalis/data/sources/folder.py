"""A folder of image files."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from chrysalis.data.columns import COLUMNS, Numbers, composed
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.formats import read_bytes, suffixes
from chrysalis.data.source import Example, Source, content_hash, decode_example, unique
from chrysalis.data.sources.listing import nearest_folder, rows_below
from chrysalis.data.transforms import Resize, Shape
from chrysalis.system.errors import UserError, require_path


def folder_data(
    path: str,
    masks: str | None = None,
    conditioning_images: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    vector_columns: Sequence[str] | None = (),
    **loading,
) -> ImageDataModule:
    """Build the data module of a folder.

    Args:
        masks, conditioning_images: folders that mirror `path`: same subfolders and names, any image suffix.
        label_column, caption_column: other metadata keys for the label and the caption.
        vector_columns: metadata keys of numbers or booleans.
        loading: see ImageDataModule.
    """
    keys = {"label": label_column, "caption": caption_column, "vector": vector_columns}
    mirrors = {"mask": masks, "conditioning_image": conditioning_images}
    return ImageDataModule(FolderSource(path, keys, mirrors), **loading)


class FolderSource(Source):
    """All images below `path`, or exactly those that metadata.jsonl or metadata.csv lists, there or in subfolders.

    metadata.jsonl has one object per line with the keys `file_name` and, where known, `label`, `text` (or `caption`),
    `mask_file_name` and `conditioning_image_file_name`; metadata.csv has columns of these names. A list of captions
    holds alternatives, of which each epoch takes one. Without metadata, a label is the name of the folder that an
    image lies in. A missing caption is read from a .txt file with the name of the image.

    Args:
        keys: by column, the metadata keys to read instead of those in data/columns.py.
        mirrors: by column of images, a folder that mirrors `path`.
    """

    def __init__(
        self,
        path: str,
        keys: Mapping[str, str | Sequence[str] | None] = {},
        mirrors: Mapping[str, str | None] = {},
    ):
        self.path = require_path("data.path", path)
        if not self.path.is_dir():
            raise UserError(f"data.path={path} is not a folder: correct the path. {nearest_folder(self.path)}")
        self.name, self.keys = str(self.path), {k: tuple(map(composed, unique(v))) for k, v in keys.items() if v}
        self.value_names = {k: self.keys.get(k, c.keys) for k, c in COLUMNS.items() if isinstance(c, Numbers)}
        self.rows, self.note = rows_below(self.path, self.keys, mirrors)
        if not self.rows:
            known = f"suffixes {', '.join(sorted(suffixes()))}"
            raise UserError(f"data.path={path} contains no images ({known}): name another folder. {self.note}".strip())
        if "caption" not in self.keys:
            self.rows = [row.with_text_file() for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        parts = [f"{self.keys}"]
        for row in self.rows:
            for role, value in {"": row.file, **row.columns}.items():
                if not isinstance(value, Path):
                    parts.append(f"{role} {value!r}")
                    continue
                with suppress(OSError):  # a single stat call per file: a set may have tens of thousands
                    stat = os.stat(value)
                    parts.append(f"{role} {value} {stat.st_size} {stat.st_mtime_ns}")
        return f"folder {content_hash(chr(10).join(parts).encode(errors='surrogatepass'))}"

    def row_name(self, i: int) -> str:
        return str(self.rows[i].file)

    def read(self, i: int, shape: Shape, resize: Resize) -> Example:
        return decode_example(read_bytes(self.rows[i].file), shape, resize, self.rows[i].columns)
