"""Is the Hugging Face hub within reach? Asked first, because its client retries for a minute before it says no."""

import functools
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from chrysalis.files import REPOSITORY

SETTINGS = ["*.json"]


def is_id(origin: str) -> bool:
    """Whether a model's origin is a repository of the hub, and not a folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", origin) is not None and not any(
        (place / origin).exists() for place in (Path.cwd(), REPOSITORY)
    )


@functools.cache
def unreachable() -> bool:
    """True if the user set HF_HUB_OFFLINE, or the hub's host does not answer; behind a proxy it is tried anyway."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if getproxies().get("https"):
        return False
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=10).close()
    except OSError:
        return True
    return False


def snapshot(hub_id: str, patterns: Sequence[str], only_cached: bool) -> Path:
    """The folder in the local cache that holds a repository's files of these patterns."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=only_cached))


def files(subfolder: str | None, variant: str | None) -> list[str]:
    """Patterns of what a model is loaded from: settings, and safetensors of one UNet and of what a conditional has."""
    weights = f"diffusion_pytorch_model{f'.{variant}' if variant else ''}"
    shards = [f"{weights}.safetensors", f"{weights}-*.safetensors"] + (
        [f"diffusion_pytorch_model-*.{variant}.safetensors"] if variant else []
    )
    within = [f"{subfolder}/"] if subfolder else ["unet/", ""]
    parts = [f"{part}/*" for part in ("conditioner", "text_encoder", "tokenizer", "lora")]
    return [*SETTINGS, *(f"{at}{name}" for at in within for name in shards), *parts, "README.md"]
