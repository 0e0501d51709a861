"""Datasets of the Hugging Face hub, and local folders of parquet or arrow files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chrysalis.data.columns import COLUMNS, Captions, Column, Images, Numbers
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.source import Example, Source, decode_example, unique
from chrysalis.data.sources.external_files import ExternalFiles
from chrysalis.data.transforms import Resize, Shape
from chrysalis.system import hub
from chrysalis.system.errors import UserError, first_line, require_path

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
    keys = {
        "image": image_column,
        "label": label_column,
        "caption": caption_column,
        "mask": mask_column,
        "conditioning_image": conditioning_image_column,
        "vector": vector_columns,
    }
    return ImageDataModule(HubSource(path, keys, split, name, revision), **loading)


class HubSource(Source):
    """A dataset of the hub by id, or a local folder of parquet or arrow files, read with `datasets`.

    Args:
        path: a hub id, ID@REVISION, or a folder.
        keys: by column, the dataset columns to read it from, None to ignore it; others are found by name.
        configuration: name of a configuration of the dataset; None: its only or default one.
        revision: a branch, tag or commit of the hub repository.
    """

    def __init__(
        self,
        path: str,
        keys: Mapping[str, str | Sequence[str] | None],
        split: str = "train",
        configuration: str | None = None,
        revision: str | None = None,
    ):
        self.rows: Dataset
        self.rows, self.files = load(path, split, configuration, revision)
        self.name = path + (f"@{revision}" if revision else "") + (f" ({configuration})" if configuration else "")
        found = {name: name for name in COLUMNS if name not in keys and name in self.rows.column_names}
        self.keys = {name: unique(given) for name, given in {**keys, **found}.items() if given}
        self.value_names = {name: keys for name, keys in self.keys.items() if isinstance(COLUMNS.get(name), Numbers)}
        for name, columns in self.keys.items():
            for key in columns:
                self._require(IMAGE if name == "image" else COLUMNS[name], key, path)
        used = list(dict.fromkeys(key for columns in self.keys.values() for key in columns))
        self.rows = self.rows.select_columns(used)  # pyrefly: ignore[bad-assignment]  # it is a Dataset

    def _require(self, column: Column, key: str, path: str) -> None:
        """Require a dataset column of the right type; image columns are set to return undecoded files.

        A vector column has one number per row; labels and captions are one string or number, captions also a list.
        """
        from datasets import ClassLabel, LargeList, List, Value
        from datasets import Image as ImageFeature

        if key not in self.rows.column_names:
            known = ", ".join(self.rows.column_names)
            raise UserError(f"{column.setting}={key} is not a column of {path}: choose from {known}.")
        if isinstance(column, Images):
            try:
                self.rows = self.rows.cast_column(key, ImageFeature(decode=False))
            except (TypeError, ValueError, NotImplementedError):  # includes pyarrow's own
                raise UserError(f"{column.setting}={key} is not a column of images: name another column.") from None
            return
        feature, is_caption = self.rows.features[key], isinstance(column, Captions)
        item = feature.feature if is_caption and isinstance(feature, List | LargeList) else feature
        kind = item.dtype if isinstance(item, Value) else type(item).__name__
        if isinstance(column, Numbers):
            if not kind.startswith(("int", "uint", "float", "bool")):
                raise UserError(f"{column.setting}={key} is not a column of numbers, but {kind}: name another column.")
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

    def read(self, i: int, shape: Shape, resize: Resize) -> Example:
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
        return decode_example(image, shape, resize, columns)


def load(
    path: str, split: str, configuration: str | None = None, revision: str | None = None
) -> tuple[Dataset, ExternalFiles]:
    """Return the rows, and a reader of the files they name, of a hub id, ID@REVISION or a local folder.

    Raises:
        UserError: the dataset could not be loaded.
    """
    folder = require_path("data.path", path)
    if folder.is_dir():
        if revision is not None:
            raise UserError(
                f"data.revision={revision} is for a hub id, and data.path={path} is a folder: leave it out."
            )
        return _load_folder(folder, path, split, configuration), ExternalFiles(folder)
    hub_id, revision_in_path = hub.split_revision(path)
    if hub_id.startswith((".", "/", "~")) or hub_id.count("/") != 1:
        example = "huggan/smithsonian_butterflies_subset"
        raise UserError(f"data.path={path} is neither a folder nor a hub id like {example}: correct it.")
    revision = revision or revision_in_path
    try:
        with hub.quiet():
            rows = _load_hub(hub_id, split, configuration, revision)
    except Exception as error:  # the hub's client and the readers raise dozens of kinds
        if choices := _choices(error):
            raise UserError(f"data.path={path} could not be loaded: {choices}.") from error
        why = hub.why(error, hub_id, "dataset", revision)
        hint = " data=butterflies needs no network." if hub.unreachable() else ""
        raise UserError(f"data.path={path} could not be fetched from the hub: {why}.{hint}") from error
    return rows, ExternalFiles(None, hub_id, _commit_of(rows) or revision)


def _load_folder(folder: Path, path: str, split: str, configuration: str | None) -> Dataset:
    import datasets

    keys = f"data.path={path}, data.split={split}" + (f", data.name={configuration}" if configuration else "")
    try:
        with hub.quiet():
            if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return datasets.load_dataset(str(folder), configuration, split=split)
            rows = datasets.load_from_disk(str(folder))
    except Exception as error:  # the readers raise dozens of kinds
        why = _choices(error) or f"{first_line(error)}. Save it again, or choose another folder"
        raise UserError(f"{keys} could not be loaded as a dataset: {why}.") from error
    if configuration is not None:
        raise UserError(f"data.name={configuration} is unknown to {path}, which save_to_disk wrote: leave it out.")
    splits = list(rows) if isinstance(rows, datasets.DatasetDict) else [str(rows.split or split)]
    if split not in splits:
        raise UserError(f"data.split={split} is not a split of {path}: choose from {', '.join(map(str, splits))}.")
    return rows[split] if isinstance(rows, datasets.DatasetDict) else rows


def _load_hub(hub_id: str, split: str, configuration: str | None, revision: str | None) -> Dataset:
    """Load from the local cache of the hub, or from the network if it is not there."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        rows = datasets.load_dataset(hub_id, configuration, split=split)  # the last written, if several are cached
        if _matches(rows, hub_id, configuration, revision):
            return rows
        if hub.unreachable():
            raise ValueError(f"the cache holds a different revision from {revision or 'main'}")
    except Exception:  # dozens of kinds, as in `load`
        if hub.unreachable():
            raise
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    # snapshot also records the commit of the revision in the cache, where _matches looks it up
    commit = hub.snapshot(hub_id, ["README.md"], False, revision, kind="dataset").name
    return datasets.load_dataset(hub_id, configuration, split=split, revision=commit)


def _matches(rows: Dataset, hub_id: str, configuration: str | None, revision: str | None) -> bool:
    """Whether cached rows are of the revision and, where the hub can be reached, of the configuration."""
    from huggingface_hub import constants

    reference = Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}" / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    same_revision = commit is None or _commit_of(rows) == commit
    return same_revision and (configuration is not None or rows.config_name == "default" or hub.unreachable())


def _commit_of(rows: Dataset) -> str | None:
    """Return the commit that a cached hub dataset was made from: its arrow files lie in a folder of that name."""
    names = {Path(file["filename"]).parent.name for file in rows.cache_files}
    name = names.pop() if len(names) == 1 else ""
    return name if re.fullmatch("[0-9a-f]{40}", name) else None


def _choices(error: Exception) -> str | None:
    """Return the possible values if a configuration or a split was missing or unknown, else None."""
    text = " ".join(str(error).split())
    for word, key, plural in (("onfig", "name", "configurations"), ("split", "split", "splits")):
        found = re.search(r"\[([^\]]*)\]|in the cache: (.+?) Please", text) if word in text else None
        if found is not None:
            return f"set data.{key} to one of its {plural}, {found[1] or found[2]}"
    return None
