"""Datasets of the Hugging Face hub, and local folders of parquet or arrow files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chrysalis.data.columns import COLUMNS, Captions, Column, Images, Numbers
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.source import Example, Source, decode_example, unique
from chrysalis.data.sources import hub_datasets
from chrysalis.data.transforms import Resize
from chrysalis.system.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE = Images("image", channels=3)


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
        self.name = path + (f"@{revision}" if revision else "") + (f" ({configuration})" if configuration else "")
        given = {
            "image": image_column,
            "label": label_column,
            "caption": caption_column,
            "mask": mask_column,
            "conditioning_image": conditioning_image_column,
            "vector": vector_columns,
        }
        self.keys = {name: unique(keys) for name, keys in given.items() if keys}
        for column in COLUMNS.values():  # without a setting: by name
            if column.name not in given and set(column.keys) <= set(self.rows.column_names):
                self.keys[column.name] = column.keys
        self.value_names = {name: keys for name, keys in self.keys.items() if isinstance(COLUMNS.get(name), Numbers)}
        for name, keys in self.keys.items():
            for key in keys:
                self._require(IMAGE if name == "image" else COLUMNS[name], key, path)
        columns = list(dict.fromkeys(key for keys in self.keys.values() for key in keys))
        self.rows = self.rows.select_columns(columns)  # pyrefly: ignore[bad-assignment]  # of a Dataset, a Dataset

    def _require(self, column: Column, key: str, path: str) -> None:
        """Require a dataset column of the right type; one of images then returns the bytes of their files.

        Numbers: one per row. Labels: one text or number per row; captions: the same, or a list of them.
        """
        from datasets import ClassLabel, LargeList, List, Value
        from datasets import Image as ImageFeature

        if key not in self.rows.column_names:
            known = ", ".join(self.rows.column_names)
            raise UserError(f"{column.setting}={key} is not a column of {path}: it has {known}.")
        if isinstance(column, Images):
            try:
                self.rows = self.rows.cast_column(key, ImageFeature(decode=False))
            except (TypeError, ValueError, NotImplementedError):  # includes pyarrow's own
                raise UserError(f"{column.setting}={key} is not a column of images in {self.name}.") from None
            return
        feature, is_caption = self.rows.features[key], isinstance(column, Captions)
        item = feature.feature if is_caption and isinstance(feature, List | LargeList) else feature
        kind = item.dtype if isinstance(item, Value) else type(item).__name__
        if isinstance(column, Numbers):
            if not kind.startswith(("int", "uint", "float", "bool")):
                raise UserError(f"{column.setting}={key} is not a column of numbers in {self.name}, but {kind}.")
        elif not isinstance(item, ClassLabel | Value) or "binary" in kind:
            or_list = ", or a list of texts" if is_caption else ""
            raise UserError(
                f"{column.setting}={key} is a column of {kind} in {self.name}, and a {column.noun} is one text"
                f"{or_list}: name another column."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return f"hub 3 {self.rows._fingerprint} {self.files.revision} {self.keys}"

    def row_name(self, i: int) -> str:
        return f"{self.name} row {i}"

    def read(self, i: int, size: tuple[int, int], resize: Resize) -> Example:
        row, features = self.rows[i], self.rows.features
        for key, value in row.items():
            if value is not None and hasattr(features[key], "int2str"):
                row[key] = features[key].int2str(value)
        columns = {}
        for name, keys in self.keys.items():
            column = COLUMNS.get(name, IMAGE)
            value = column.read(row, keys)
            if isinstance(column, Images) and value is not None:
                value = value["bytes"] if value["bytes"] is not None else self.files.read(value["path"])
            columns[name] = value
        if (image := columns.pop("image", None)) is None:
            raise ValueError("no image")
        return decode_example(image, size, resize, columns)
