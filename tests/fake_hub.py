"""A hub of models on this machine: the routes of the Hugging Face hub that a download uses, over local folders."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class FakeHub:
    """Repositories by name, each with its folders by revision, and what it answers to those who may not read it."""

    url: str = ""
    revisions: dict[str, dict[str, Path]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def publish(self, name: str, folder: Path, revision: str = "main") -> str:
        """Let a revision of a repository be a folder, and return its commit."""
        self.revisions.setdefault(name, {})[revision] = folder
        commit = hashlib.sha1(str(folder).encode()).hexdigest()
        self.revisions[name][commit] = folder
        return commit

    def fetched(self) -> list[str]:
        """Files whose content was asked for, in order of their names."""
        return sorted(
            {path.rpartition("/")[2] for path in self.requests if path.startswith("GET /") and "/resolve/" in path}
        )


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        is_api = path.startswith("/api/models")
        owner, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        self._answer(f"{owner}/{name}", is_api, rest)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, name: str, is_api: bool, rest: list[str]) -> None:
        refusal = (404, "RepoNotFound") if name not in self.hub.revisions else self.hub.refusals.get(name)
        if refusal and not (is_api and refusal[1] == "GatedRepo"):  # anybody may look at what is gated
            return self._send(*refusal)
        revision = rest[1] if len(rest) > 1 else "main"
        folder = self.hub.revisions[name].get(revision)
        if folder is None:
            return self._send(404, "RevisionNotFound")
        commit = self.hub.publish(name, folder, revision)
        if not is_api:
            return self._send_file(folder / "/".join(rest[2:]), commit)
        if rest and rest[0] == "tree":
            return self._send_json(_tree(folder))
        return self._send_json({"id": name, "modelId": name, "sha": commit, "siblings": []})

    def _send_file(self, file: Path, commit: str) -> None:
        if not file.is_file():
            return self._send(404, "EntryNotFound")
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(200, "", content, headers)

    def _send_json(self, value: object) -> None:
        self._send(200, "", json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, code: str, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Error-Code": code, "Content-Length": str(len(content)), **(headers or {})}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _tree(folder: Path) -> list[dict[str, object]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    shared = {"type": "file", "oid": "0" * 40}
    return [{**shared, "path": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
    """Serve on a free port of this machine."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def point_to(hub_url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub, which reads the environment when it is imported, use this hub and this cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub_url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
