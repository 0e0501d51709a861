"""Image files that a dataset refers to instead of containing them: by path, by file of a hub repository or by URL."""

import hashlib
import re
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from huggingface_hub import constants

from chrysalis.data.formats import LARGEST_FILE, read_bytes
from chrysalis.system import hub
from chrysalis.system.errors import first_line
from chrysalis.system.files import cache_folder, written

TIMEOUT = 20  # seconds without a response or further data
MAX_FAILURES = 5  # in a row for one host, after which it is not contacted again
HF = re.compile(r"hf://datasets/(?P<hub_id>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
RESOLVED = re.compile(r"/datasets/(?P<hub_id>[^/]+/[^/]+)/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<file>[^?]+)")
CACHED = re.compile(r".*/datasets--(?P<hub_id>.+?)/snapshots/(?P<revision>[0-9a-f]{40})/(?P<file>.+)")


class ExternalFiles:
    """Reader of the files that the rows of one dataset refer to.

    Args:
        root: the folder of a local dataset, which paths are relative to; None for a hub dataset.
        hub_id, revision: the repository of a hub dataset, which its relative paths refer to. Only a hub dataset may
            refer to URLs.
    """

    def __init__(self, root: Path | None, hub_id: str | None = None, revision: str | None = None):
        self.root, self.hub_id, self.revision = root, hub_id, revision
        self._failures: Counter[str] = Counter()

    def read(self, path: str) -> bytes:
        """Return the bytes of the file that a row names.

        Raises:
            ValueError, OSError: the file is not available.
        """
        is_url, place = re.match("hf://|https?://", path) is not None, Path(path)
        if "::" in path:
            raise ValueError(f"{path} lies in an archive: unpack it and name the files in it")
        if is_url and self.hub_id is None:
            raise ValueError(f"{path} is a URL, and a local dataset is read without network: download it")
        if found := HF.fullmatch(path):
            return self._read_hub(found["hub_id"], found["file"], found["revision"] and unquote(found["revision"]))
        if path.startswith("hf://"):
            raise ValueError(f"{path} is not of the form hf://datasets/OWNER/NAME/FILE")
        if path.startswith(f"{constants.ENDPOINT}/") and (found := RESOLVED.match(path, len(constants.ENDPOINT))):
            return self._read_hub(found["hub_id"], unquote(found["file"]), unquote(found["revision"]))
        if is_url:
            return self._read_web(path)
        if not place.is_absolute():
            if self.root is None:
                return self._read_hub(self.hub_id or "", path.removeprefix("./"), self.revision)
            place = (self.root / path).resolve()
            if not place.is_relative_to(self.root.resolve()):
                raise ValueError(f"{path} lies outside {self.root}")
        elif not place.exists() and (pruned := CACHED.fullmatch(place.as_posix())):
            return self._read_hub(pruned["hub_id"].replace("--", "/", 1), pruned["file"], pruned["revision"])
        return read_bytes(place)

    def _read_hub(self, hub_id: str, file: str, revision: str | None) -> bytes:
        """Read a file of a dataset's repository, from the local cache of the hub if it is there."""
        import huggingface_hub

        for bar in ("http_get", "xet_get"):  # one bar per file, and decoding has its own
            huggingface_hub.utils.disable_progress_bars(f"huggingface_hub.{bar}")
        where = {"repo_id": hub_id, "filename": file, "repo_type": "dataset", "revision": revision}
        try:
            with hub.quiet():
                found = huggingface_hub.try_to_load_from_cache(**where)
                found = found if isinstance(found, str) else huggingface_hub.hf_hub_download(**where)
        except Exception as error:  # the hub's client raises dozens of kinds
            raise ValueError(f"{file} of {hub_id}: {hub.why(error, hub_id, 'dataset', revision)}") from error
        return read_bytes(Path(found))

    def _read_web(self, url: str) -> bytes:
        """Fetch a URL of any other host, without a token, and keep the file in the cache folder."""
        cached = cache_folder() / "fetched" / hashlib.sha256(url.encode()).hexdigest()[:32]
        if cached.is_file():
            return read_bytes(cached)
        if constants.HF_HUB_OFFLINE:
            raise ValueError(f"{url}: no network because HF_HUB_OFFLINE is set")
        host = urlsplit(url).netloc
        if self._failures[host] >= MAX_FAILURES:
            raise ValueError(f"{url}: {host} does not answer")
        try:
            with urlopen(Request(url, headers={"User-Agent": "chrysalis"}), timeout=TIMEOUT) as response:
                data = response.read(LARGEST_FILE + 1)
                expected = response.headers.get("Content-Length")
        except HTTPError as error:
            raise ValueError(f"{url}: HTTP {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            self._failures[host] += 1
            raise ValueError(f"{url}: {getattr(error, 'reason', None) or first_line(error)}") from error
        self._failures[host] = 0
        if len(data) > LARGEST_FILE:
            raise ValueError(f"{url}: more than {LARGEST_FILE / 2**20:.0f} MiB")
        if expected is not None and len(data) < int(expected):
            raise ValueError(f"{url}: the connection was interrupted")
        with written(cached) as partial:
            partial.write_bytes(data)
        return data
