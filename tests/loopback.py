"""A local hub: the part of the Hugging Face hub's HTTP interface that its clients use, on the loopback address."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "5" * 40


@dataclass
class Repository:
    """A repository of the hub.

    Args:
        files: bytes by path.
        answer: (status, X-Error-Code, X-Error-Message) for every request; None to serve the files.
        revisions: commits by branch.
        cut: files whose connection ends after half of their bytes.
        private: as whoever created it asked.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    answer: tuple[int, str | None, str | None] | None = None
    revisions: dict[str, str] = field(default_factory=lambda: {"main": SHA})
    cut: set[str] = field(default_factory=set)
    private: bool | None = None

    def take(self, folder: Path) -> "Repository":
        """Add the files of a folder."""
        self.files |= {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self


class Loopback(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: by path, such as `me/model` and `datasets/me/images`.
        pages: bytes of other addresses.
        seen: every request, as `METHOD PATH`.
        tokens: path and Authorization header of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, Repository] = {}
        self.pages: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.tokens: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def serving() -> Iterator[Loopback]:
    with Loopback() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: the client waits 40 ms for the second of two
    disable_nagle_algorithm = True
    server: Loopback

    def log_message(self, *arguments) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body)

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.seen.append(f"{self.command} {path}")
        self.server.tokens.append((path, self.headers.get("Authorization")))
        if path in self.server.pages:
            return self._send(self.server.pages[path])
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        words = path.split("/")
        if words[0] == "api":
            kind = "datasets/" if words[1] == "datasets" else ""
            name, verb, rest = "/".join(words[2:4]), *(words[4:5] or ["revision"]), words[5:] or ["main"]
        else:
            kind = "datasets/" if words[0] == "datasets" else ""
            words = words[1:] if kind else words
            name, verb, rest = "/".join(words[:2]), *(words[2:3] or ["page"]), words[3:]
        repository = self.server.repositories.get(kind + name)
        if repository is None:
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        if repository.answer is not None:
            return self._refuse(*repository.answer)
        if verb not in ("revision", "tree", "paths-info", "resolve", "preupload", "commit"):
            return self._refuse(404, None, None)
        commit, rest = self._commit(repository, rest)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if verb == "commit":
            verb = "upload"
        if verb == "resolve":
            return self._file(repository, commit, "/".join(rest))
        return self._json(getattr(self, f"_{verb.replace('-', '_')}")(repository, commit, name, "/".join(rest), body))

    def _commit(self, repository: Repository, words: list[str]) -> tuple[str | None, list[str]]:
        for n in range(len(words), 0, -1):  # a branch may have slashes
            named = "/".join(words[:n])
            if named in repository.revisions or named in repository.revisions.values():
                return repository.revisions.get(named, named), words[n:]
        return None, words

    def _revision(self, repository: Repository, commit: str, name: str, *_) -> dict:
        siblings = [{"rfilename": file} for file in repository.files]
        return {"_id": "0", "id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings}

    def _tree(self, repository: Repository, commit: str, name: str, below: str, _) -> list[dict]:
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = {}
        for file in repository.files:
            if below and not file.startswith(f"{below}/"):
                continue
            inside = file.removeprefix(f"{below}/") if below else file
            parents = [file[: -len(inside)] + inside[:i] for i, letter in enumerate(inside) if letter == "/"]
            for parent in parents if recursive else parents[:1]:
                entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if recursive or not parents:
                entries[file] = self._entry(repository, file)
        return list(entries.values())

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        repository = self.server.repositories.setdefault(
            name, Repository(private=asked.get("visibility", "private" if asked.get("private") else None) == "private")
        )
        if repository.answer is not None:
            return self._refuse(*repository.answer)
        self._json({"url": f"{self.server.url}/{name}"})

    def _preupload(self, repository: Repository, commit: str, name: str, _, body: bytes) -> dict:
        asked = [file["path"] for file in json.loads(body)["files"]]
        return {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for p in asked]}

    def _upload(self, repository: Repository, commit: str, name: str, _, body: bytes) -> dict:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit, "success": True}

    def _paths_info(self, repository: Repository, commit: str, name: str, _, body: bytes) -> list[dict]:
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = parse_qs(body.decode()).get("paths", [])
        found = []
        for path in [paths] if isinstance(paths, str) else paths:
            if path in repository.files:
                found.append(self._entry(repository, path))
            elif any(file.startswith(f"{path}/") for file in repository.files):
                found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        return found

    def _entry(self, repository: Repository, file: str) -> dict:
        data = repository.files[file]
        return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _file(self, repository: Repository, commit: str, file: str) -> None:
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        data = repository.files[file]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(data, headers, cut=file in repository.cut)

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str | None, more: dict | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(b"", {key: value for key, value in named.items() if value} | (more or {}), status)

    def _send(self, data: bytes, headers: dict | None = None, status: int = 200, cut: bool = False) -> None:
        """Send bytes; cut: only half of them, and none to a request for the rest, so that the client gives up."""
        again = cut and self.headers.get("Range") is not None
        self.send_response(206 if again else status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD" and not again:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection |= cut


@contextmanager
def serving_as_the_hub(tmp_path: Path, monkeypatch) -> Iterator[Loopback]:
    """Serve a hub without repositories to all its clients, with an empty cache and without tokens or proxies."""
    from huggingface_hub import HfFileSystem, constants
    from huggingface_hub.utils import close_session

    from chrysalis.system import hub

    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        config = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_CACHE": tmp_path / "datasets"}
        config |= {"HUB_DATASETS_URL": server.url + "/datasets/{repo_id}/resolve/{revision}/{path}"}
        for name, value in config.items():
            monkeypatch.setattr(f"datasets.config.{name}", value)
        HfFileSystem.clear_instance_cache()
        close_session()
        hub.unreachable.cache_clear()
        yield server
    close_session()
    hub.unreachable.cache_clear()
