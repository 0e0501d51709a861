"""Where images come from: drawn, a folder, or a dataset of the Hugging Face hub."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from PIL import Image

from chrysalis.data import hub_datasets
from chrysalis.data.example import (
    Example,
    alternatives,
    cleaned,
    composed,
    content_hash,
    contents,
    decoded,
    each_once,
    measurement,
)
from chrysalis.data.formats import suffixes
from chrysalis.data.listing import nearest_folder, rows_below
from chrysalis.data.metadata import Columns, Row, spelled
from chrysalis.data.transforms import Resize, mask_to_training_size, to_training_size
from chrysalis.system.errors import UserError, require_path


class Source(Protocol):
    """Rows that are read one by one; `read` raises any exception on an image that cannot be used."""

    name: str
    vector_names: tuple[str, ...]  # of the measurements in a row's vector
    note: str  # a sentence on what there is beside its rows, or ""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Changes when what `read` returns would change."""

    def row_name(self, i: int) -> str: ...

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example: ...


class Drawn:
    """`n` images of a drawn domain: butterflies, moths, flowers, these three in turn (all), or insects.

    Needs no file and no network.

    A row's vector is the mean colour of its subject, each channel from 0 to 1.
    """

    vector_names = ("red", "green", "blue")
    note = ""

    def __init__(self, domain: str = "butterflies", n: int = 1000, seed: int = 0):
        from chrysalis.data.synthetic.domains import ALL, DOMAINS

        if domain not in (*DOMAINS, "all"):
            raise UserError(f"data.domain={domain} is unknown: choose one of {', '.join(DOMAINS)}, all.")
        if n < 2:
            raise UserError(f"data.n={n} must be at least 2: one training image, one to hold out.")
        self.domains = list(ALL) if domain == "all" else [domain]
        self.name, self.domain, self.n, self.seed = f"drawn {', '.join(self.domains)}", domain, n, seed

    def __len__(self) -> int:
        return self.n

    def fingerprint(self) -> str:
        code = b"".join(p.read_bytes() for p in sorted((Path(__file__).parent / "synthetic").glob("*.py")))
        return f"drawn {self.domain} {self.n} {self.seed} {content_hash(code)}"

    def _domain(self, i: int) -> str:
        return self.domains[i % len(self.domains)]

    def row_name(self, i: int) -> str:
        return f"{self._domain(i)} {i}"

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example:
        from chrysalis.data.synthetic.domains import draw, species_names

        domain = self._domain(i)
        drawn = draw(domain, i, self.seed, max(size))
        image = to_training_size(Image.fromarray(drawn.image), size, resize)
        mask = mask_to_training_size(Image.fromarray(drawn.mask), size, resize)
        subject = image[:, mask[0] > 0]
        return Example(
            image,
            content_hash(f"{domain} {i} {self.seed}".encode()),
            species_names(domain)[drawn.label],
            drawn.caption,
            mask,
            vector=tuple((subject.mean(axis=1) / 255).tolist()) if subject.size else None,
        )


class Folder:
    """Every image below `path`, or exactly those that metadata.jsonl or metadata.csv lists, there or in subfolders.

    metadata.jsonl has one object a line: `file_name`, and as far as known `label`, `text` (or `caption`; of a list of
    captions an epoch has one),
    `mask_file_name` and `conditioning_image_file_name`; metadata.csv has columns of these names. Without them labels
    are the names of the folders that images lie in, and a caption is a .txt file of the image's name.

    masks, conditioning_images: folders that mirror `path`: the same places and names, with any image suffix.
    label_column, caption_column, vector_columns: other keys of the metadata, those of the vector numbers or booleans.
    """

    def __init__(
        self,
        path: str,
        masks: str | None = None,
        conditioning_images: str | None = None,
        label_column: str | None = None,
        caption_column: str | None = None,
        vector_columns: Sequence[str] = (),
    ):
        self.path = require_path("data.path", path)
        if not self.path.is_dir():
            raise UserError(f"data.path={path} is not a folder. {nearest_folder(self.path)}".strip())
        self.name, self.vector_names = str(self.path), tuple(map(composed, each_once(vector_columns)))
        self.caption_beside = caption_column is None
        columns = Columns(*(name and composed(name) for name in (label_column, caption_column)), self.vector_names)
        self.rows, self.note = rows_below(self.path, columns, {"mask": masks, "conditioning": conditioning_images})
        if not self.rows:
            looked_for = ", ".join(sorted(suffixes()))
            raise UserError(f"data.path={path} has no images in it: looked for {looked_for} files. {self.note}".strip())

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        parts = [f"{self.vector_names} {self.caption_beside}"]
        for row in self.rows:
            files = {"": row.file, "mask": row.mask, "conditioning": row.conditioning, "caption": self._beside(row)}
            for what, file in files.items():
                if file is None:
                    continue
                with suppress(OSError):  # asked once: a set has tens of thousands
                    stat = os.stat(file)
                    parts.append(f"{what} {file} {stat.st_size} {stat.st_mtime_ns}")
            parts.append(f"{row.label!r} {row.caption!r} {row.vector}")
        return f"folder {content_hash(chr(10).join(parts).encode(errors='surrogatepass'))}"

    def row_name(self, i: int) -> str:
        return str(self.rows[i].file)

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example:
        row, caption = self.rows[i], self.rows[i].caption
        if caption is None and (beside := self._beside(row)) is not None and beside.is_file():
            caption = _caption_in(beside)
        image = contents(row.file)
        mask, conditioning = (
            f and _beside_it(what, f) for what, f in (("mask", row.mask), ("conditioning image", row.conditioning))
        )
        return decoded(image, size, resize, row.label, caption, mask, conditioning, row.vector)

    def _beside(self, row: Row) -> Path | None:
        return spelled(row.file.parent, f"{row.file.stem}.txt") if self.caption_beside else None


def _caption_in(file: Path) -> str:
    try:
        return cleaned(contents(file).decode("utf-8-sig").strip())
    except UnicodeDecodeError:
        raise ValueError(f"its caption {file.name} is not UTF-8 text") from None


def _beside_it(what: str, file: Path) -> bytes:
    try:
        return contents(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"its {what}: {getattr(error, 'strerror', None) or error}") from error


class Hub:
    """A dataset of the hub by id, or a local folder of parquet or arrow files, through `datasets`.

    configuration: one of those that the dataset has, None for the only or default one. revision: a branch, tag or
    commit of the hub, which may also be written ID@REVISION.
    """

    note = ""

    def __init__(
        self,
        path: str,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = None,
        caption_column: str | None = None,
        mask_column: str | None = None,
        conditioning_image_column: str | None = None,
        vector_columns: Sequence[str] = (),
        configuration: str | None = None,
        revision: str | None = None,
    ):
        self.rows, self.files = hub_datasets.load(path, split, configuration, revision)
        self.vector_names = each_once(vector_columns)
        self.name = path + (f"@{revision}" if revision else "") + (f" ({configuration})" if configuration else "")
        images = {"image": image_column, "mask": mask_column, "conditioning_image": conditioning_image_column}
        self.columns = {**images, "label": label_column, "caption": caption_column}
        asked = [(f"data.{what}_column", column) for what, column in self.columns.items() if column is not None]
        asked += [("data.vector_columns", column) for column in self.vector_names]
        for key, column in asked:
            if column not in self.rows.column_names:
                have = ", ".join(self.rows.column_names)
                raise UserError(f"{key}={column} is not a column of {path}: it has {have}.")
        self._require_numbers()
        self._require_texts()
        self.rows = self.rows.select_columns(list(dict.fromkeys(column for _, column in asked)))
        for what, column in images.items():
            if column is not None:
                self._cast_to_files(f"data.{what}_column", column)

    def _require_numbers(self) -> None:
        from datasets import Value

        for column in self.vector_names:
            feature = self.rows.features[column]
            kind = feature.dtype if isinstance(feature, Value) else type(feature).__name__
            if not kind.startswith(("int", "uint", "float", "bool")):
                raise UserError(f"data.vector_columns={column} is not a column of numbers in {self.name}, but {kind}.")

    def _require_texts(self) -> None:
        """Labels are one text or number a row; captions too, or a list of them."""
        from datasets import ClassLabel, LargeList, List, Value

        for what in ("label", "caption"):
            column = self.columns[what]
            feature = None if column is None else self.rows.features[column]
            one = feature.feature if what == "caption" and isinstance(feature, List | LargeList) else feature
            if one is None or isinstance(one, ClassLabel) or (isinstance(one, Value) and "binary" not in one.dtype):
                continue
            kind = one.dtype if isinstance(one, Value) else type(one).__name__
            more = ", or a list of texts" if what == "caption" else ""
            raise UserError(
                f"data.{what}_column={column} is a column of {kind} in {self.name}, and a {what} is one text{more}: "
                f"name another column."
            )

    def _cast_to_files(self, key: str, column: str) -> None:
        """The bytes of image files, undecoded: Pillow decodes them here, at the size that is needed."""
        from datasets import Image as ImageFeature

        try:
            self.rows = self.rows.cast_column(column, ImageFeature(decode=False))
        except (TypeError, ValueError, NotImplementedError):  # pyarrow's own are among them
            raise UserError(f"{key}={column} is not a column of images in {self.name}.") from None

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return f"hub 2 {self.rows._fingerprint} {self.files.revision} {self.columns} {self.vector_names}"

    def row_name(self, i: int) -> str:
        return f"{self.name} row {i}"

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example:
        row = self.rows[i]
        image, mask, conditioning = (self._file(row, what) for what in ("image", "mask", "conditioning_image"))
        vector = tuple(measurement(row[column]) for column in self.vector_names) or None
        return decoded(image, size, resize, self._label(row), self._caption(row), mask, conditioning, vector)

    def _file(self, row: dict, what: str) -> bytes | None:
        entry = row[self.columns[what]] if self.columns[what] is not None else None
        if entry is None:
            return None
        if entry["bytes"] is not None:
            return entry["bytes"]
        return self.files.read(entry["path"])

    def _label(self, row: dict) -> str | None:
        column = self.columns["label"]
        if column is None or row[column] is None:
            return None
        feature = self.rows.features[column]
        return cleaned(feature.int2str(row[column]) if hasattr(feature, "int2str") else str(row[column]))

    def _caption(self, row: dict) -> str | tuple[str, ...] | None:
        """The row's caption; of a list its texts, which are alternatives."""
        column = self.columns["caption"]
        return None if column is None else alternatives(row[column])
