"""Loading models of the transformers library by folder or hub id, without running their code, quietly.

Where there is no safetensors file, pytorch_model.bin is read by torch's weights-only loader.
"""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chrysalis.system import hub
from chrysalis.system.errors import UserError, first_line


@contextmanager
def source(setting: str, name: str, kind: str, like: str, extra: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `from_pretrained`; whatever fails inside is raised as a UserError.

    Args:
        setting: KEY=VALUE as the user typed it.
        name: a folder or a hub id, with or without a revision.
        kind: what it is loaded as, for messages.
        like: an example of a hub id, for messages.
        extra: the extra of chrysalis that installs transformers.
    """
    try:
        import transformers  # noqa: F401 -- optional
        from transformers.utils import logging as bars
    except ImportError as error:
        raise UserError(f'{setting} needs the transformers library: pip install "chrysalis[{extra}]".') from error
    folder = Path(str(name)).expanduser()
    local = folder.is_dir()
    hub_id, revision = hub.split_revision(str(name))
    if not local and (hub_id.startswith((".", "/", "~")) or hub_id.count("/") > 1):
        raise UserError(f"{setting} is neither a folder nor a hub id like {like}.")
    offline = local or hub.unreachable()
    shown = bars.is_progress_bar_enabled()
    where = str(folder) if local else hub_id
    # else transformers asks a service to convert a repository of pickled weights, in public
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        with hub.quiet():
            bars.disable_progress_bar()
            yield {"pretrained_model_name_or_path": where, "local_files_only": offline, "revision": revision or "main"}
    except UserError:
        raise
    except Exception as error:  # the hub's client and the readers of damaged files raise dozens of types
        why = first_line(error)
        if isinstance(error, pickle.UnpicklingError | EOFError):
            why = "pytorch_model.bin is damaged, or holds more than tensors, and no code in it is run"
        elif not local and (not offline or isinstance(error, OSError)):
            why = hub.why(error, hub_id, revision=revision) + (". Give a folder instead" if offline else "")
        raise UserError(f"{setting} could not be loaded as {kind}: {why}.") from error
    finally:
        if shown:
            bars.enable_progress_bar()


def require_complete(report: dict[str, Any]) -> None:
    """Raise ValueError for a model whose file lacks weights. report: the loading info of transformers."""
    if report["missing_keys"]:
        raise ValueError(f"{len(report['missing_keys'])} of its weights are not in its file")
