"""Datasets of the Hugging Face hub, and local folders of parquet or arrow files, through `datasets`."""

import re
from pathlib import Path

from chrysalis.data.addresses import Files
from chrysalis.system import hub
from chrysalis.system.errors import UserError, require_path

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
    hub_id, named = hub.split_revision(path)
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
        rows = datasets.load_dataset(hub_id, configuration, split=split)  # of several, what was last written
        if _is_asked_for(rows, hub_id, configuration, revision):
            return rows
        if hub.unreachable():
            raise ValueError(f"the cache holds another revision than {revision or 'main'}")
    except Exception:  # as many kinds as above
        if hub.unreachable():
            raise
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    # the commit, noted in the cache under the revision's name
    commit = hub.snapshot(hub_id, ["README.md"], False, revision, kind="dataset").name
    return datasets.load_dataset(hub_id, configuration, split=split, revision=commit)


def _is_asked_for(rows, hub_id: str, configuration: str | None, revision: str | None) -> bool:
    """Whether rows from the cache are of the revision and, where the hub can be asked, of the configuration."""
    from huggingface_hub import constants

    named = Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}" / "refs" / (revision or "main")
    known = named.read_text().strip() if named.is_file() else revision
    of_revision = known is None or _commit_of(rows) == known
    return of_revision and (configuration is not None or rows.config_name == "default" or hub.unreachable())


def _commit_of(rows) -> str | None:
    """The commit that a hub dataset in the cache was made from: its arrow files lie in a folder of that name."""
    names = {Path(file["filename"]).parent.name for file in rows.cache_files}
    name = names.pop() if len(names) == 1 else ""
    return name if COMMIT.fullmatch(name) else None


def _names_choices(error: Exception) -> str | None:
    """What to choose from, if a configuration or a split was not named or is not there; else None."""
    text = " ".join(str(error).split())
    for word, key, what in (("onfig", "name", "configurations"), ("split", "split", "splits")):
        found = re.search(r"\[([^\]]*)\]|in the cache: (.+?) Please", text) if word in text else None
        if found is not None:
            return f"set data.{key} to one of its {what}, {found[1] or found[2]}"
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
