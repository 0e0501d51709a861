"""The Hugging Face hub: its files, transformers models by hub id or folder, and the causes of its errors in words."""

import errno
import functools
import logging
import os
import pickle
import re
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import huggingface_hub
from huggingface_hub import constants

from chrysalis.system.errors import UserError, causes, first_line
from chrysalis.system.files import REPOSITORY

SETTINGS = ["*.json"]
# the parts that a conditional or adapted model adds
ADDED_PARTS = ["conditioner/*", "text_encoder/*.txt", "tokenizer/*", "lora/*", "README.md"]
_quiet_lock, _quiet_blocks, _restore = threading.Lock(), [], ExitStack()
CUT_SHORT = re.compile("Consistency check failed|IncompleteRead|peer closed connection")


def is_id(origin: str) -> bool:
    """Whether a model's origin is a repository of the hub rather than a folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[^@]+)?", origin) is not None and not any(
        (place / origin).exists() for place in (Path.cwd(), REPOSITORY)
    )


@functools.cache
def unreachable() -> bool:
    """Whether HF_HUB_OFFLINE is set or the hub's host does not answer; behind a proxy it counts as reachable.

    Checked first, because the hub's client retries for a minute before it gives up.
    """
    if constants.HF_HUB_OFFLINE:
        return True
    if getproxies().get("https"):
        return False
    host = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname, host.port or (80 if host.scheme == "http" else 443)), 10).close()
    except OSError:
        return True
    return False


def split_revision(name: str) -> tuple[str, str | None]:
    """Split ID@REVISION into (id, revision); the revision is None where there is none."""
    hub_id, _, revision = name.partition("@")
    return hub_id, revision or None


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' own warnings and error lines, which our message replaces.

    Logging and warnings belong to the whole process: where threads overlap, the last one to leave restores them.
    """
    with _quiet_lock:
        if not _quiet_blocks:
            _restore.callback(logging.disable, logging.root.manager.disable)
            _restore.enter_context(warnings.catch_warnings(action="ignore"))
            logging.disable(logging.ERROR)
        _quiet_blocks.append(None)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_blocks.pop()
            if not _quiet_blocks:
                _restore.close()


def snapshot(
    hub_id: str, patterns: Sequence[str], only_cached: bool, revision: str | None = None, kind: str = "model"
) -> Path:
    """Download a repository's files that match `patterns`; return their folder in the cache, named by its commit."""
    how = {"allow_patterns": list(patterns), "local_files_only": only_cached, "revision": revision, "repo_type": kind}
    return Path(huggingface_hub.snapshot_download(hub_id, **how))


def listing(hub_id: str, folder: Path, only_cached: bool) -> list[str] | None:
    """Names of all files of the revision whose snapshot is `folder`; None where the cache does not know them."""
    try:
        return [file.path for file in huggingface_hub.get_cached_repo_tree(hub_id, revision=folder.name)]
    except Exception:  # older clients keep no listing, and a cache may lack it
        return None if only_cached else huggingface_hub.HfApi().list_repo_files(hub_id, revision=folder.name)


def require_pushable(hub_id: str, key: str) -> None:
    """Raise UserError unless OWNER/NAME is an id and there is a token to upload with. key: the configuration key."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) is None:
        raise UserError(f"{key}={hub_id} is not the id of a repository: give OWNER/NAME.")
    if huggingface_hub.get_token() is None:
        raise UserError(f"{key}={hub_id} needs a token of the hub: run `hf auth login`, or set HF_TOKEN.")


def push(folder: Path, hub_id: str, private: bool) -> str:
    """Upload a model folder as one commit to OWNER/NAME, which is created if it is missing; return its page.

    Raises UserError with the cause.
    """
    api = huggingface_hub.HfApi()
    try:
        with quiet():
            api.create_repo(hub_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Trained with Chrysalis")
    except Exception as error:  # the hub's client raises dozens of kinds
        status = getattr(getattr(error, "response", None), "status_code", None)
        tokens = f"{constants.ENDPOINT}/settings/tokens"
        cause = f"your token may not write there, give it write permission at {tokens}"
        if status not in (401, 403):
            cause = "there is no network" if unreachable() else first_line(error)
        raise UserError(cause) from error
    return f"{constants.ENDPOINT}/{hub_id}"


def why(error: BaseException, hub_id: str, kind: str = "model", revision: str | None = None) -> str:
    """Cause of an error of the hub's client, and what to do, without a full stop. kind: model or dataset."""
    from huggingface_hub.errors import EntryNotFoundError

    if unreachable():
        return "there is no network, or HF_HUB_OFFLINE is set: connect or unset it"
    chain = causes(error)
    answer = next((e for e in chain if getattr(e, "response", None) is not None), None)
    if answer is not None and (answer is error or not isinstance(answer, EntryNotFoundError)):
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{hub_id}"
        return _refused(answer, kind, page, revision)
    if any(getattr(e, "errno", None) == errno.ENOSPC or "Not enough free disk space" in str(e) for e in chain):
        return f"the disk of {constants.HF_HUB_CACHE} is full: make room there, or set HF_HOME to another folder"
    broken = (isinstance(e, ConnectionError | TimeoutError) or type(e).__module__.startswith("httpx") for e in chain)
    if any(broken) or any(CUT_SHORT.search(str(e)) for e in chain):
        return "the connection broke off: run the same command again, which downloads only the missing files"
    return f"{first_line(error)}. Run the command again, or choose another {kind}"


def _refused(error: Any, kind: str, page: str, revision: str | None) -> str:
    """Cause of an HTTP error of the hub's client, and what to do. page: the repository's page on the web."""
    from huggingface_hub import errors

    status, tokens = error.response.status_code, f"{constants.ENDPOINT}/settings/tokens"
    with_token = "authorization" in error.response.request.headers
    if isinstance(error, errors.GatedRepoError):
        then = "wait for access to be granted" if with_token else "set HF_TOKEN to a token of your account"
        return f"it is gated: accept its licence at {page} and {then}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision}: name one of its branches, tags or commits"
    if isinstance(error, errors.DisabledRepoError):
        return "the hub has disabled it: choose another one"
    if isinstance(error, errors.EntryNotFoundError):
        return f"one of its files is not there: see what it holds at {page}/tree/{revision or 'main'}"
    if status == 401 and with_token:
        return f"the hub refuses your token, which is invalid or has expired: set HF_TOKEN to a new one from {tokens}"
    if status == 401:
        return f"the hub has no public {kind} of that id: check the id, or set HF_TOKEN if it is private"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        which = f", or make a token at {tokens} that may read it" if with_token else ""
        return f"the hub has no such {kind}: check the id{which}"
    if status == 403:
        return f"your token may not read it (HTTP 403): give it read permission at {tokens}"
    if status == 429:
        return "the hub has had too many requests (HTTP 429): wait some minutes, or set HF_TOKEN, which allows more"
    return f"the hub answers with HTTP {status}: run the command again later"


@contextmanager
def transformers_source(setting: str, name: str, kind: str, like: str, extra: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments of transformers' `from_pretrained`; whatever fails inside is raised as a UserError.

    name: a folder or a hub id, with or without a revision. For messages, setting: KEY=VALUE as the user typed it; kind:
    what it is loaded as; like: an example of a hub id; extra: the extra of chrysalis that installs transformers.
    """
    try:
        from transformers import utils
    except ImportError as error:
        raise UserError(f'{setting} needs the transformers library: pip install "chrysalis[{extra}]".') from error
    folder, (hub_id, revision) = Path(str(name)).expanduser(), split_revision(str(name))
    local = folder.is_dir()
    if not local and (hub_id.startswith((".", "/", "~")) or hub_id.count("/") > 1):
        raise UserError(f"{setting} is neither a folder nor a hub id like {like}: correct it.")
    offline, place = local or unreachable(), str(folder) if local else hub_id
    shown = utils.logging.is_progress_bar_enabled()
    # else transformers asks a service to convert a repository of pickled weights, in public
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        with quiet():
            utils.logging.disable_progress_bar()
            yield {"pretrained_model_name_or_path": place, "local_files_only": offline, "revision": revision or "main"}
    except UserError:
        raise
    except Exception as error:  # the hub's client and the readers of damaged files raise dozens of types
        cause = f"{first_line(error)}. Fetch or save it again, or choose another"
        if isinstance(error, pickle.UnpicklingError | EOFError):
            cause = "pytorch_model.bin is damaged, or holds more than tensors, and no code in it is run: choose another"
        elif not local and (not offline or isinstance(error, OSError)):
            cause = why(error, hub_id, revision=revision) + (". Give a folder instead" if offline else "")
        raise UserError(f"{setting} could not be loaded as {kind}: {cause}.") from error
    finally:
        if shown:
            utils.logging.enable_progress_bar()


def require_complete(report: dict[str, Any]) -> None:
    """Raise ValueError for a model whose file lacks weights. report: the loading info of transformers."""
    if report["missing_keys"]:
        raise ValueError(f"{len(report['missing_keys'])} of its weights are not in its file")
