"""A Hugging Face Hub on this machine: repositories in memory, as much of them as is asked here."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/([a-z-]+)(?:/([^/]+))?(.*)")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub:
    """repositories: kind and name -> path -> content. asked: every request, as method and path."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.asked: list[str] = []

    def commit(self, key: tuple[str, str]) -> str:
        """The hash of what is in a repository."""
        return hashlib.sha1(repr(sorted(self.repositories[key].items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _send(self, code: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _url(self, name: str) -> str:
        return f"http://{self.headers['Host']}/{name}"

    def _missing(self, code: str) -> None:
        self._send(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _ask(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := API.fullmatch(path):
            self._api(*found.groups(""), body)
        elif found := FILE.fullmatch(path):
            kind = "datasets" if found[1] else "models"
            self._file((kind, found[2]), found[4])
        elif found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)", path):
            self._info((found[1], found[2]))
        else:
            self._missing("EntryNotFound")

    do_GET = do_POST = do_HEAD = _ask

    def _create(self, told: dict[str, Any]) -> None:
        owner = f"{told['organization']}/" if told.get("organization") else ""
        key = (f"{told.get('type') or 'model'}s", owner + told["name"])
        if key in self.hub.repositories:
            self._send(409, {"url": self._url(key[1]), "error": "exists"})
            return
        self.hub.repositories[key] = {".gitattributes": b"* -text\n"}
        self.hub.private[key] = told.get("private") or told.get("visibility") == "private"
        self._send(200, {"url": self._url(key[1])})

    def _info(self, key: tuple[str, str]) -> None:
        if key not in self.hub.repositories:
            self._missing("RepoNotFound")
            return
        self._send(200, {"id": key[1], "sha": self.hub.commit(key), "tags": [],
                         "private": self.hub.private[key],
                         "siblings": [{"rfilename": name} for name in self.hub.repositories[key]]})

    def _api(self, kind: str, name: str, what: str, revision: str, rest: str, body: bytes) -> None:
        key = (kind, name)
        if key not in self.hub.repositories:
            self._missing("RepoNotFound")
        elif revision not in ("", "main", self.hub.commit(key)):
            self._missing("RevisionNotFound")
        elif what == "revision":
            self._info(key)
        elif what == "tree":
            self._send(200, [{"type": "file", "path": path, "size": len(content),
                              "oid": hashlib.sha1(content).hexdigest()}
                             for path, content in self.hub.repositories[key].items()])
        elif what == "preupload":
            self._send(200, {"files": [{"path": one["path"], "uploadMode": "regular",
                                        "shouldIgnore": False, "oid": None}
                                       for one in json.loads(body)["files"]]})
        elif what == "commit":
            self._commit(key, [json.loads(line) for line in body.splitlines() if line])
        else:
            self._missing("EntryNotFound")

    def _commit(self, key: tuple[str, str], lines: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[key]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                assert line["key"] == "header", line
        sha = self.hub.commit(key)
        self._send(200, {"success": True, "commitOid": sha,
                         "commitUrl": f"{self._url(key[1])}/commit/{sha}"})

    def _file(self, key: tuple[str, str], path: str) -> None:
        content = self.hub.repositories.get(key, {}).get(path)
        if content is None:
            self._missing("EntryNotFound" if key in self.hub.repositories else "RepoNotFound")
            return
        self._send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                   X_Repo_Commit=self.hub.commit(key))


@contextlib.contextmanager
def serving() -> Iterator[tuple[Hub, str]]:
    """A hub and its address, until the context ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
