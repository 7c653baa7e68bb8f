"""A Hugging Face Hub on 127.0.0.1: the read protocol, for the real client, with faults.

Repositories live in memory. A fault is queued for a path and spent one request at a time.
Every request is recorded, so that a test can say what travelled.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from loopback_hub_writes import HubWrites
from loopback_registry import Server

LFS_FROM = 1024


@dataclass
class Repository:
    """Files by commit; ``main`` and tags point to commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        parts = b"".join(name.encode() + data for name, data in sorted(files.items()))
        sha = hashlib.sha1(parts).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with one GET of a file.

    kind: status | truncate | flip | cut | ignore_range | wrong_range | stall | html | redirect
    """

    kind: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    at: int = 0
    target: str = ""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class LoopbackHub(Server):
    """The server; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, deque[Fault]] = {}
        self.requests: list[Request] = []
        self.writes: list[tuple[str, str]] = []
        self.uploads: dict[str, bytes] = {}
        self.users: dict[str, str] = {}

    @property
    def endpoint(self) -> str:
        return self.url

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def fail(self, file: str, *faults: Fault) -> None:
        """Queue faults for GETs whose path ends in ``file``."""
        self.faults.setdefault(file, deque()).extend(faults)

    def fetched(self, file: str) -> list[Request]:
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(file)]


class _Handler(HubWrites, BaseHTTPRequestHandler):
    owner: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route(body=False)

    def do_GET(self) -> None:
        self._route(body=True)

    def _route(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.owner.requests.append(Request(self.command, path, headers))
        if path == "/api/agent-harnesses":
            return self._json({"standardEnvVars": [], "harnesses": {}})
        for fault_path, queue in self.owner.faults.items():
            if path.endswith(fault_path) and queue and body:
                return self._fault(queue.popleft(), path)
        if path == "/api/whoami-v2":
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if bearer not in self.owner.users:
                return self._error(401, "")
            return self._json({"name": self.owner.users[bearer], "type": "user"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2] or "main")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self._tree(match[1], match[2])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3], body=body)
        return self._error(404, "EntryNotFound")

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.owner.repositories.get(name)
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is None or (repository.token and bearer != repository.token):
            if repository is not None and repository.gated:
                self._error(403 if bearer else 401, "GatedRepo")
            else:
                self._error(404 if repository is None else 401, "RepoNotFound")
            return None
        sha = repository.resolve(revision)
        if sha is None:
            self._error(404, "RevisionNotFound")
            return None
        return sha, repository.commits[sha]

    def _info(self, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found:
            siblings = [{"rfilename": path} for path in found[1]]
            self._json({"id": name, "sha": found[0], "siblings": siblings, "tags": []})

    def _tree(self, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if not found:
            return
        entries = []
        for path, data in found[1].items():
            entry: dict[str, object] = {
                "type": "file",
                "path": path,
                "size": len(data),
                "oid": git_oid(data),
            }
            if len(data) >= LFS_FROM:
                oid = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def _file(self, name: str, revision: str, path: str, *, body: bool) -> None:
        found = self._find(name, revision)
        if not found:
            return None
        if path not in found[1]:
            return self._error(404, "EntryNotFound")
        self._send_bytes(found[1][path], found[0], body=body)

    def _send_bytes(
        self, data: bytes, sha: str, *, body: bool, ignore_range: bool = False, shift: int = 0
    ) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        start, stop, status = 0, len(data), 200
        asked = self.headers.get("Range", "")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        fresh = self.headers.get("If-Range", etag) == etag
        if match and fresh and not ignore_range:
            start = int(match[1])
            stop = min(int(match[2]) + 1, len(data)) if match[2] else len(data)
            status = 206
        self.send_response(status)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + shift}-{stop - 1}/{len(data)}")
        self.end_headers()
        if body:
            self.wfile.write(data[start:stop])

    def _fault(self, fault: Fault, path: str) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if fault.kind == "status":
            return self._error(fault.status, "", fault.headers)
        if fault.kind == "html":
            return self._raw(200, b"<html>log in</html>", "text/html")
        if fault.kind == "redirect":
            self.send_response(302)
            self.send_header("Location", fault.target)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        assert match is not None
        sha = self.owner.repositories[match[1]].resolve(match[2])
        assert sha is not None
        data = self.owner.repositories[match[1]].commits[sha][match[3]]
        if fault.kind == "flip":
            changed = bytearray(data)
            changed[fault.at] ^= 1
            return self._send_bytes(bytes(changed), sha, body=True)
        if fault.kind == "ignore_range":
            return self._send_bytes(data, sha, body=True, ignore_range=True)
        if fault.kind == "wrong_range":
            return self._send_bytes(data, sha, body=True, shift=1)
        if fault.kind == "truncate":
            return self._raw(200, data[: fault.at], "application/octet-stream")
        # cut and stall: the full length is promised, part of it is sent
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: fault.at])
        self.wfile.flush()
        if fault.kind == "stall":
            time.sleep(3)
        self.close_connection = True
        self.connection.close()

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: object) -> None:
        self._raw(200, json.dumps(document).encode(), "application/json")

    def _raw(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


LoopbackHub.handler = _Handler
