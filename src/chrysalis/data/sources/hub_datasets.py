"""Loading datasets of the Hugging Face hub, and local folders of parquet or arrow files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from chrysalis.data.sources.external_files import ExternalFiles
from chrysalis.system import hub
from chrysalis.system.errors import UserError, first_line, require_path

if TYPE_CHECKING:
    from datasets import Dataset

COMMIT = re.compile("[0-9a-f]{40}")


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
        raise UserError(
            f"data.path={path} is neither a folder nor a hub id like huggan/smithsonian_butterflies_subset."
        )
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

    try:
        with hub.quiet():
            if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return datasets.load_dataset(str(folder), configuration, split=split)
            rows = datasets.load_from_disk(str(folder))
        if configuration is not None:
            raise ValueError("what save_to_disk wrote has no configurations")
        if isinstance(rows, datasets.DatasetDict):
            if split not in rows:
                raise ValueError(f"it has the splits {', '.join(map(str, rows))}")
            return rows[split]
        if rows.split is not None and str(rows.split) != split:
            raise ValueError(f"it is the split {rows.split}")
        return rows
    except Exception as error:  # the readers raise dozens of kinds
        why = _choices(error) or first_line(error)
        keys = f"data.path={path}, data.split={split}" + (f", data.name={configuration}" if configuration else "")
        raise UserError(f"{keys} could not be loaded as a dataset: {why}.") from error


def _load_hub(hub_id: str, split: str, configuration: str | None, revision: str | None) -> Dataset:
    """Load from the local cache of the hub; use the network only for what is not there."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        rows = datasets.load_dataset(hub_id, configuration, split=split)  # of several, the one written last
        if _matches(rows, hub_id, configuration, revision):
            return rows
        if hub.unreachable():
            raise ValueError(f"the cache holds another revision than {revision or 'main'}")
    except Exception:  # as many kinds as above
        if hub.unreachable():
            raise
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    # the commit, noted in the cache under the name of the revision
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
    return name if COMMIT.fullmatch(name) else None


def _choices(error: Exception) -> str | None:
    """Return the possible values if a configuration or a split was missing or unknown, else None."""
    text = " ".join(str(error).split())
    for word, key, plural in (("onfig", "name", "configurations"), ("split", "split", "splits")):
        found = re.search(r"\[([^\]]*)\]|in the cache: (.+?) Please", text) if word in text else None
        if found is not None:
            return f"set data.{key} to one of its {plural}, {found[1] or found[2]}"
    return None
