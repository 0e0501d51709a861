"""Datasets of the Hugging Face hub, and local folders of parquet or arrow files, through `datasets`."""

import re
from pathlib import Path

from chrysalis import hub
from chrysalis.data.addresses import Files
from chrysalis.errors import UserError, require_path

COMMIT = re.compile("[0-9a-f]{40}")


def load(path: str, split: str, configuration: str | None = None, revision: str | None = None) -> tuple:
    """(rows, Files) of a hub id, ID@REVISION or a local folder; raises UserError where they cannot be had."""
    folder = require_path("data.path", path)
    if folder.is_dir():
        if revision is not None:
            raise UserError(
                f"data.revision={revision} is for a hub id, and data.path={path} is a folder: leave it out."
            )
        return _of_folder(folder, path, split, configuration), Files(folder)
    hub_id, named = hub.parted(path)
    if hub_id.startswith((".", "/", "~")) or hub_id.count("/") != 1:
        raise UserError(
            f"data.path={path} is neither a folder nor a hub id like huggan/smithsonian_butterflies_subset."
        )
    revision = revision or named
    try:
        with hub.quiet():
            rows = _of_hub(hub_id, split, configuration, revision)
    except Exception as error:  # the hub's client and the readers raise dozens of kinds
        if _names_choices(error):
            raise UserError(f"data.path={path} could not be loaded: {_names_choices(error)}.") from error
        why = hub.why(error, hub_id, "dataset", revision)
        hint = " data=butterflies is drawn here and needs no network." if hub.unreachable() else ""
        raise UserError(f"data.path={path} could not be fetched from the hub: {why}.{hint}") from error
    return rows, Files(None, hub_id, _commit_of(rows) or revision)


def _of_folder(folder: Path, path: str, split: str, configuration: str | None):
    import datasets

    try:
        with hub.quiet():
            if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return datasets.load_dataset(str(folder), configuration, split=split)
            rows = datasets.load_from_disk(str(folder))
        if configuration is not None:
            raise ValueError("what save_to_disk wrote has no configurations")
        return _of_split(rows, split)
    except Exception as error:  # the readers raise dozens of kinds
        why = _names_choices(error) or hub.first_line(error)
        asked = f"data.path={path}, data.split={split}" + (f", data.name={configuration}" if configuration else "")
        raise UserError(f"{asked} could not be loaded as a dataset: {why}.") from error


def _of_hub(hub_id: str, split: str, configuration: str | None, revision: str | None):
    """From the local cache of the hub; asked over the network only for what is not there."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        rows = datasets.load_dataset(hub_id, configuration, split=split)
        if revision is None or _commit_of(rows) == _cached_commit(hub_id, revision):
            return rows
        if hub.unreachable():
            raise ValueError(f"the cache holds another revision than {revision}")
    except Exception:  # as many kinds as above
        if hub.unreachable():
            raise
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    commit = hub.require_repository(hub_id, "dataset", revision)
    return datasets.load_dataset(hub_id, configuration, split=split, revision=commit)


def _commit_of(rows) -> str | None:
    """The commit that a hub dataset in the cache was made from: its arrow files lie in a folder of that name."""
    names = {Path(file["filename"]).parent.name for file in rows.cache_files}
    name = names.pop() if len(names) == 1 else ""
    return name if COMMIT.fullmatch(name) else None


def _cached_commit(hub_id: str, revision: str) -> str:
    """The commit of a revision as the cache of the hub knows it; what is no known branch or tag is a commit itself."""
    from huggingface_hub import constants

    known = Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}" / "refs" / revision
    return known.read_text().strip() if known.is_file() else revision


def _names_choices(error: Exception) -> str | None:
    """What to choose from, if a configuration or a split was not named or is not there; else None."""
    text = " ".join(str(error).split())
    if "onfig" in text and (found := re.search(r"\[[^\]]*\]", text)):
        return f"set data.name to one of its configurations, {found[0].strip('[]')}"
    if "split" in text and (found := re.search(r"\[[^\]]*\]", text)):
        return f"set data.split to one of its splits, {found[0].strip('[]')}"
    return None


def _of_split(rows, split: str):
    """`split` of what save_to_disk wrote: a set of splits, or one that may know its name."""
    if hasattr(rows, "keys"):
        if split not in rows:
            raise ValueError(f"it has the splits {', '.join(rows)}")
        return rows[split]
    if rows.split is not None and str(rows.split) != split:
        raise ValueError(f"it is the split {rows.split}")
    return rows
