"""Image files that a dataset names instead of holding: by a path, by a place in a repository or by an address."""

import hashlib
import re
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from chrysalis.data.example import LARGEST_FILE, contents
from chrysalis.system import hub
from chrysalis.system.files import cache_folder, written

SECONDS = 20  # without an answer, or a byte
GIVEN_UP = 5  # failures of one host in a row, after which it is left alone
HF = re.compile(r"hf://datasets/(?P<hub_id>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
RESOLVED = re.compile(r"/datasets/(?P<hub_id>[^/]+/[^/]+)/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<file>[^?]+)")
CACHED = re.compile(r".*/datasets--(?P<owner>.+?)--(?P<name>.+?)/snapshots/(?P<revision>[0-9a-f]{40})/(?P<file>.+)")


class Files:
    """The files that the rows of one dataset name; `read` raises ValueError or OSError where one cannot be had.

    root: the folder of a local dataset, which paths are relative to; None for one of the hub.
    hub_id, revision: of a hub dataset, in whose repository relative paths lie, and which alone may send for addresses.
    """

    def __init__(self, root: Path | None, hub_id: str | None = None, revision: str | None = None):
        self.root, self.hub_id, self.revision = root, hub_id, revision
        self._failures: Counter[str] = Counter()

    def read(self, path: str) -> bytes:
        """The bytes of the file that a row names."""
        if "::" in path:
            raise ValueError(f"{path} lies in an archive: unpack it, and name the files themselves")
        if re.match("hf://|https?://", path):
            if self.hub_id is None:
                raise ValueError(f"{path} is an address, and a local dataset is read without network: fetch it first")
            return self._addressed(path)
        if not Path(path).is_absolute():
            return self._inside(path)
        pruned = None if Path(path).exists() else CACHED.fullmatch(Path(path).as_posix())
        if pruned is not None:
            return self._of_hub(f"{pruned['owner']}/{pruned['name']}", pruned["file"], pruned["revision"])
        return contents(Path(path))

    def _inside(self, path: str) -> bytes:
        """A file by its place in the repository or below the folder."""
        if self.hub_id is not None:
            return self._of_hub(self.hub_id, path.removeprefix("./"), self.revision)
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root.resolve()):
            raise ValueError(f"{path} lies outside {self.root}")
        return contents(file)

    def _addressed(self, address: str) -> bytes:
        from huggingface_hub import constants

        of_hub = HF.fullmatch(address)
        if of_hub is None and address.startswith(f"{constants.ENDPOINT}/"):
            of_hub = RESOLVED.match(address.removeprefix(constants.ENDPOINT))
        if of_hub is not None:
            revision = of_hub["revision"] and unquote(of_hub["revision"])
            file = of_hub["file"] if address.startswith("hf://") else unquote(of_hub["file"])
            return self._of_hub(of_hub["hub_id"], file, revision)
        if address.startswith("hf://"):
            raise ValueError(f"{address} is no hf://datasets/OWNER/NAME/FILE")
        return self._of_web(address)

    def _of_hub(self, hub_id: str, file: str, revision: str | None) -> bytes:
        """A file of a dataset's repository, from the local cache of the hub if it is there."""
        import huggingface_hub

        for bar in ("http_get", "xet_get"):  # one a file: there are thousands, and a bar counts them already
            huggingface_hub.utils.disable_progress_bars(f"huggingface_hub.{bar}")
        where = {"repo_id": hub_id, "filename": file, "repo_type": "dataset", "revision": revision}
        try:
            with hub.quiet():
                found = huggingface_hub.try_to_load_from_cache(**where)
                found = found if isinstance(found, str) else huggingface_hub.hf_hub_download(**where)
        except Exception as error:  # the hub's client raises dozens of kinds
            raise ValueError(f"{file} of {hub_id}: {hub.why(error, hub_id, 'dataset', revision)}") from error
        return contents(Path(found))

    def _of_web(self, address: str) -> bytes:
        """The bytes at an address of any other host, without a token; kept in the cache folder."""
        kept = cache_folder() / "fetched" / hashlib.sha256(address.encode()).hexdigest()[:32]
        if kept.is_file():
            return contents(kept)
        if hub.offline():
            raise ValueError(f"{address}: there is no network, because HF_HUB_OFFLINE is set")
        host = urlsplit(address).netloc
        if self._failures[host] >= GIVEN_UP:
            raise ValueError(f"{address}: {host} does not answer")
        try:
            with urlopen(Request(address, headers={"User-Agent": "chrysalis"}), timeout=SECONDS) as answer:
                data = answer.read(LARGEST_FILE + 1)
                whole = answer.headers.get("Content-Length")
        except HTTPError as error:
            raise ValueError(f"{address}: HTTP {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            self._failures[host] += 1
            raise ValueError(f"{address}: {getattr(error, 'reason', None) or hub.first_line(error)}") from error
        self._failures[host] = 0
        if len(data) > LARGEST_FILE:
            raise ValueError(f"{address}: more than {LARGEST_FILE / 2**20:.0f} MiB")
        if whole is not None and len(data) < int(whole):
            raise ValueError(f"{address}: the connection broke off")
        with written(kept) as partial:
            partial.write_bytes(data)
        return data
