"""Is the Hugging Face hub within reach? Asked first, because its client retries for a minute before it says no."""

import functools
import os
import socket
from urllib.parse import urlparse
from urllib.request import getproxies


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
