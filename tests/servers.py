"""HTTP servers on this machine, for tests of downloads and uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

Server = TypeVar("Server", bound=ThreadingHTTPServer)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The server, answering in another thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Mirror(ThreadingHTTPServer):
    """Serves a folder, supports ranges, and misbehaves on demand."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.break_after: int | None = None
        self.ignore_ranges = False
        self.fails = 0  # that many requests
        self.content_type = "application/octet-stream"
        self.requests: list[tuple[str, str | None]] = []


def range_of(header: str | None, size: int) -> tuple[int, int]:
    """First byte, and the one after the last, of a `Range` header."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "bytes=0-")
    assert match is not None, header
    return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file() or self.server.fails > 0:
            self.server.fails -= 1
            self.send_error(503 if path.is_file() else 404)
            return
        content = path.read_bytes()
        start, stop = range_of(self.headers.get("Range"), len(content))
        if self.server.ignore_ranges:
            start, stop = 0, len(content)
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start or stop < len(content) else 200)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        body = content[start:stop]
        if self.command != "HEAD":
            self.wfile.write(body if self.server.break_after is None else body[: self.server.break_after])

    def log_message(self, *args: object) -> None:
        pass


class Hub(ThreadingHTTPServer):
    """The part of the Hugging Face Hub's interface that uploads and downloads of models use."""

    TOKEN = "hf_test"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.cards: dict[str, dict[str, Any]] = {}  # of datasets
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}  # large files by their SHA-256
        self.refuses_with = 0  # a status


class HubAnswer(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, status: int, value: Any = b"", **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_allowed(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {self.server.TOKEN}"
        if self.server.refuses_with or not allowed:
            self._answer(self.server.refuses_with or 401, {"error": "refused"})
        return allowed and not self.server.refuses_with

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.server.refuses_with:
            self._answer(self.server.refuses_with)
            return
        parts = urlsplit(self.path).path.strip("/").split("/")
        if "datasets" in parts[:2]:
            self._answer_about_dataset(parts)
            return
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.repositories.get(repository)
        is_hidden = repository in self.server.private and not self.headers.get("Authorization")
        if files is None or is_hidden:
            self._answer(401, X_Error_Code="RepoNotFound")
        elif parts[0] == "api":
            self._answer(200, {"id": repository, "sha": "1" * 40, "private": repository in self.server.private})
        elif parts[3] not in ("main", "1" * 40):
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif parts[4] not in files:
            self._answer(404, X_Error_Code="EntryNotFound")
        else:
            digest = hashlib.sha256(files[parts[4]]).hexdigest()
            self._answer(200, files[parts[4]], X_Repo_Commit="1" * 40, ETag=f'"{digest}"')

    def _answer_about_dataset(self, parts: list[str]) -> None:
        repository = "/".join(parts[parts.index("datasets") + 1 :][:2])
        files = self.server.datasets.get(repository)
        if files is None:
            self._answer(401, X_Error_Code="RepoNotFound")
        elif parts[0] == "api" and "tree" in parts:
            found = [{"type": "file", "path": name, "size": len(files[name]), "oid": "2" * 40} for name in files]
            self._answer(200, found)
        elif parts[0] == "api" and len(parts) > 5 and parts[5] != "1" * 40:
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif parts[0] == "api":
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            card = self.server.cards.get(repository, {})
            self._answer(200, {"id": repository, "sha": "1" * 40, "siblings": siblings, "cardData": card})
        elif (name := "/".join(parts[5:])) not in files:
            self._answer(404, X_Error_Code="EntryNotFound")
        else:
            start, stop = range_of(self.headers.get("Range"), len(files[name]))
            self._answer(206 if self.headers.get("Range") else 200, files[name][start:stop], X_Repo_Commit="1" * 40)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self._answer(200)

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":
            license = re.search(r"^license: (.*)$", json.loads(body)["content"], re.MULTILINE)
            known = license is None or license[1] == "apache-2.0"
            errors = [] if known else [{"message": "license must be one of ..."}]
            self._answer(200 if known else 400, {"errors": errors, "warnings": []})
            return
        if not self._is_allowed():
            return
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repository = f"{wanted['organization']}/{wanted['name']}"
            url = f"{self.server.url}/{repository}"
            if repository in self.server.repositories:
                self._answer(409, {"error": "exists", "url": url})
                return
            self.server.repositories[repository] = {}
            if wanted.get("visibility") == "private" or wanted.get("private"):
                self.server.private.add(repository)
            self._answer(200, {"url": url})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            self._answer(
                200, {"files": [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes.items()]}
            )
        elif self.path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.server.url}/upload/{item['oid']}"}}
            self._answer(200, {"objects": objects, "transfer": "basic"})
        elif "/commit/" in self.path:
            repository = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.repositories[repository][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.repositories[repository][value["path"]] = self.server.objects[value["oid"]]
            self._answer(
                200, {"commitUrl": f"{self.server.url}/{repository}/commit/1", "commitOid": "1" * 40, "success": True}
            )
        else:
            self._answer(404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *args: object) -> None:
        pass
