"""Datasets of the Hugging Face hub, and local folders of parquet or arrow files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.example import Example, as_measurement, clean_text, decode_example, parse_caption, unique
from chrysalis.data.source import Source
from chrysalis.data.sources import hub_datasets
from chrysalis.data.transforms import Resize
from chrysalis.system.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def hub_data(
    path: str,
    split: str = "train",
    image_column: str = "image",
    label_column: str | None = None,
    caption_column: str | None = None,
    mask_column: str | None = None,
    conditioning_image_column: str | None = None,
    vector_columns: Sequence[str] | None = (),
    name: str | None = None,
    revision: str | None = None,
    **loading,
) -> ImageDataModule:
    """Build the data module of a hub dataset, see HubSource. loading: see ImageDataModule."""
    columns = (image_column, label_column, caption_column, mask_column, conditioning_image_column, vector_columns)
    return ImageDataModule(HubSource(path, split, *columns, name, revision), **loading)


class HubSource(Source):
    """A dataset of the hub by id, or a local folder of parquet or arrow files, read with `datasets`.

    Args:
        path: a hub id, ID@REVISION, or a folder.
        configuration: name of a configuration of the dataset; None: its only or default one.
        revision: a branch, tag or commit of the hub repository.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = None,
        caption_column: str | None = None,
        mask_column: str | None = None,
        conditioning_image_column: str | None = None,
        vector_columns: Sequence[str] | None = (),
        configuration: str | None = None,
        revision: str | None = None,
    ):
        self.rows: Dataset
        self.rows, self.files = hub_datasets.load(path, split, configuration, revision)
        self.vector_names = unique(vector_columns or ())
        self.name = path + (f"@{revision}" if revision else "") + (f" ({configuration})" if configuration else "")
        images = {"image": image_column, "mask": mask_column, "conditioning_image": conditioning_image_column}
        self.columns = {**images, "label": label_column, "caption": caption_column}
        required = [(f"data.{role}_column", column) for role, column in self.columns.items() if column is not None]
        required += [("data.vector_columns", column) for column in self.vector_names]
        for key, column in required:
            if column not in self.rows.column_names:
                known = ", ".join(self.rows.column_names)
                raise UserError(f"{key}={column} is not a column of {path}: it has {known}.")
        self._require_numbers()
        self._require_texts()
        columns = list(dict.fromkeys(column for _, column in required))
        self.rows = self.rows.select_columns(columns)  # pyrefly: ignore[bad-assignment]  # of a Dataset, a Dataset
        for role, column in images.items():
            if column is not None:
                self._cast_to_files(f"data.{role}_column", column)

    def _require_numbers(self) -> None:
        from datasets import Value

        for column in self.vector_names:
            feature = self.rows.features[column]
            kind = feature.dtype if isinstance(feature, Value) else type(feature).__name__
            if not kind.startswith(("int", "uint", "float", "bool")):
                raise UserError(f"data.vector_columns={column} is not a column of numbers in {self.name}, but {kind}.")

    def _require_texts(self) -> None:
        """Require one text or number per row as label, and the same or a list of them as caption."""
        from datasets import ClassLabel, LargeList, List, Value

        for role in ("label", "caption"):
            column = self.columns[role]
            feature = None if column is None else self.rows.features[column]
            item = feature.feature if role == "caption" and isinstance(feature, List | LargeList) else feature
            if item is None or isinstance(item, ClassLabel) or (isinstance(item, Value) and "binary" not in item.dtype):
                continue
            kind = item.dtype if isinstance(item, Value) else type(item).__name__
            or_list = ", or a list of texts" if role == "caption" else ""
            raise UserError(
                f"data.{role}_column={column} is a column of {kind} in {self.name}, and a {role} is one text{or_list}: "
                f"name another column."
            )

    def _cast_to_files(self, key: str, column: str) -> None:
        """Have the column return the undecoded bytes of image files, which are decoded here at the size needed."""
        from datasets import Image as ImageFeature

        try:
            self.rows = self.rows.cast_column(column, ImageFeature(decode=False))
        except (TypeError, ValueError, NotImplementedError):  # includes pyarrow's own
            raise UserError(f"{key}={column} is not a column of images in {self.name}.") from None

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return f"hub 2 {self.rows._fingerprint} {self.files.revision} {self.columns} {self.vector_names}"

    def row_name(self, i: int) -> str:
        return f"{self.name} row {i}"

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example:
        row = self.rows[i]
        image, mask, conditioning = (self._file(row, role) for role in ("image", "mask", "conditioning_image"))
        if image is None:
            raise ValueError("no image")
        vector = tuple(as_measurement(row[column]) for column in self.vector_names) or None
        return decode_example(image, size, resize, self._label(row), self._caption(row), mask, conditioning, vector)

    def _file(self, row: dict, role: str) -> bytes | None:
        entry = row[self.columns[role]] if self.columns[role] is not None else None
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
        return clean_text(feature.int2str(row[column]) if hasattr(feature, "int2str") else str(row[column]))

    def _caption(self, row: dict) -> str | tuple[str, ...] | None:
        """Return the row's caption, or the alternatives that a list holds."""
        column = self.columns["caption"]
        return None if column is None else parse_caption(row[column])
