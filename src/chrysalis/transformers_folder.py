"""Models of the transformers library by folder or hub id: safetensors only, no code of theirs, quietly."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chrysalis import hub
from chrysalis.errors import UserError


@contextmanager
def source(asked: str, name: str, kind: str, like: str, extra: str) -> Iterator[dict]:
    """Yields what `from_pretrained` takes; whatever goes wrong inside becomes a sentence.

    asked: KEY=VALUE as the user set it. kind: what it was to be loaded as. like: a hub id for example.
    extra: of chrysalis, that has transformers.
    """
    try:
        import transformers  # noqa: F401 -- optional
        from transformers.utils import logging as bars
    except ImportError as error:
        raise UserError(f'{asked} needs the transformers library: pip install "chrysalis[{extra}]".') from error
    folder = Path(str(name)).expanduser()
    local = folder.is_dir()
    if not local and (str(name).startswith((".", "/", "~")) or str(name).count("/") > 1):
        raise UserError(f"{asked} is neither a folder nor a hub id like {like}.")
    offline = local or hub.unreachable()
    level, shown = logging.root.manager.disable, bars.is_progress_bar_enabled()
    try:
        with warnings.catch_warnings(action="ignore"):
            logging.disable(logging.WARNING)
            bars.disable_progress_bar()
            yield {"pretrained_model_name_or_path": str(folder) if local else name, "local_files_only": offline}
    except UserError:
        raise
    except Exception as error:  # the hub's client and the readers of damaged files raise dozens of kinds
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
        if offline and not local and isinstance(error, OSError):
            why = "there is no network. Give a folder instead"
        raise UserError(f"{asked} could not be loaded as {kind} with safetensors: {why}.") from error
    finally:
        logging.disable(level)
        if shown:
            bars.enable_progress_bar()


def require_complete(report: dict) -> None:
    """ValueError for a model whose file lacks weights; report: the loading info of transformers."""
    if report["missing_keys"]:
        raise ValueError(f"{len(report['missing_keys'])} of its weights are not in its file")
