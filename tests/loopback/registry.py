"""An OCI registry in memory on 127.0.0.1, with faults; it records what is asked."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class Fault:
    """kind: status | cut | flip | wrong_range | whole | stall; ``at`` bytes come through."""

    kind: str
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    at: int = 0


class Server:
    """A threaded server; a context manager."""

    handler: type[BaseHTTPRequestHandler]

    def __init__(self) -> None:
        bound = type("Bound", (self.handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status, body=b"", headers=None, kind="application/json"):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _RegistryHandler(Handler):
    def _route(self):
        registry, parts = self.owner, urlsplit(self.path)
        self.path_only, self.query = unquote(parts.path), parse_qs(parts.query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        registry.requests.append(Request(self.command, self.path_only, self.query, headers))
        fault = registry.next_fault(self.command, self.path_only)
        if fault is not None and fault.kind == "status":
            self._body()
            return self.answer(fault.status, headers=fault.headers)
        if fault is not None and self.command in {"PATCH", "PUT"}:
            return self._cut_upload(fault)
        if registry.user and not self._allowed(headers):
            self._body()
            challenge = {"WWW-Authenticate": 'Basic realm="here"'}
            return self.answer(401, {"errors": [{"code": "UNAUTHORIZED"}]}, challenge)
        if self.path_only == "/v2/":
            return self.answer(200, {})
        if self.path_only == "/v2/_catalog":
            return self._page(sorted(registry.manifests), "repositories")
        if match := re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/(.*)", self.path_only):
            name = match[1].removesuffix("/blobs") if match[3] == "" else match[1]
            if upload := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", self.path_only):
                return self._upload(upload[1], upload[2])
            return getattr(self, f"_{match[2]}")(name, match[3], fault)
        return self.answer(404)

    def do_GET(self):
        self._route()

    def do_HEAD(self):
        self._route()

    def do_PUT(self):
        self._route()

    def do_POST(self):
        self._route()

    def do_PATCH(self):
        self._route()

    def _allowed(self, headers):
        pair = ":".join(self.owner.user).encode()
        return headers.get("authorization") == f"Basic {base64.b64encode(pair).decode()}"

    def _body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("a body without a length")
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _page(self, entries, field_name):
        size = self.owner.page_size
        last = self.query.get("last", [""])[0]
        rest = [entry for entry in entries if entry > last]
        headers = {}
        if len(rest) > size:
            headers["Link"] = f'<{self.path_only}?n={size}&last={rest[size - 1]}>; rel="next"'
        self.answer(200, {field_name: rest[:size]}, headers)

    def _tags(self, name, _rest, _fault):
        if name not in self.owner.tags:
            return self.answer(404, {"errors": [{"code": "NAME_UNKNOWN"}]})
        return self._page(sorted(self.owner.tags[name]), "tags")

    def _manifests(self, name, reference, _fault):
        registry = self.owner
        manifests, tags = (
            registry.manifests.setdefault(name, {}),
            registry.tags.setdefault(name, {}),
        )
        if self.command == "PUT":
            data = self._body()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            document = json.loads(data)
            needed = [
                e["digest"] for e in [document.get("config"), *document.get("layers", [])] if e
            ]
            if any((name, wanted) not in registry.blobs for wanted in needed):
                return self.answer(400, {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]})
            manifests[digest] = (data, self.headers["Content-Type"])
            if not reference.startswith("sha256:"):
                tags[reference] = digest
            headers = {"Docker-Content-Digest": digest}
            if registry.has_referrers and "subject" in document:
                headers["OCI-Subject"] = document["subject"]["digest"]
            return self.answer(201, headers=headers)
        digest = tags.get(reference, reference)
        if digest not in manifests:
            return self.answer(
                404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}
            )
        data, kind = manifests[digest]
        headers = {"Docker-Content-Digest": digest} if registry.tells_digest else {}
        return self.answer(200, registry.lie or data, headers, kind)

    def _referrers(self, name, digest, _fault):
        if not self.owner.has_referrers:
            return self.answer(404)
        found = []
        for own, (data, kind) in self.owner.manifests.get(name, {}).items():
            document = json.loads(data)
            if document.get("subject", {}).get("digest") == digest:
                found.append(
                    {"mediaType": kind, "digest": own, "size": len(data),
                     "artifactType": document["artifactType"]}
                )  # fmt: skip
        return self.answer(200, {"schemaVersion": 2, "manifests": found})

    def _blobs(self, name, digest, fault):
        data = self.owner.blobs.get((name, digest))
        if data is None:
            return self.answer(404, {"errors": [{"code": "BLOB_UNKNOWN"}]})
        if self.command == "HEAD":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            return self.end_headers()
        if fault is not None and fault.kind == "flip":
            data = data[: fault.at] + bytes([data[fault.at] ^ 1]) + data[fault.at + 1 :]
        start, stop = 0, len(data)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match and not (fault and fault.kind == "whole"):
            start = int(match[1])
            stop = int(match[2]) + 1 if match[2] else len(data)
        shift = 1 if fault is not None and fault.kind == "wrong_range" else 0
        self.send_response(206 if match and (start or stop < len(data)) else 200)
        self.send_header("Content-Length", str(stop - start))
        if match:
            self.send_header("Content-Range", f"bytes {start + shift}-{stop - 1}/{len(data)}")
        self.end_headers()
        if fault is not None and fault.kind in {"cut", "stall"}:
            self.wfile.write(data[start : start + fault.at])
            self.wfile.flush()
            if fault.kind == "stall":
                time.sleep(2)
            self.close_connection = True
            return self.connection.close()
        return self.wfile.write(data[start:stop])

    def _upload(self, name, session):
        registry = self.owner
        if self.command == "POST":
            mount, other = self.query.get("mount", [""])[0], self.query.get("from", [""])[0]
            self._body()
            if mount and (other, mount) in registry.blobs:
                registry.blobs[name, mount] = registry.blobs[other, mount]
                return self.answer(201, headers={"Location": f"/v2/{name}/blobs/{mount}"})
            session = f"session-{len(registry.uploads)}"
            registry.uploads[session] = bytearray()
            return self.answer(202, headers=self._place(name, session))
        if session not in registry.uploads:
            self._body()
            return self.answer(404, {"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]})
        held = registry.uploads[session]
        if self.command == "GET":
            return self.answer(204, headers=self._place(name, session))
        if self.command == "PATCH":
            start = int(self.headers["Content-Range"].partition("-")[0])
            data = self._body()
            if start != len(held):
                return self.answer(416, headers=self._place(name, session))
            held += data
            return self.answer(202, headers=self._place(name, session))
        held += self._body()
        digest = f"sha256:{hashlib.sha256(held).hexdigest()}"
        if digest != self.query["digest"][0]:
            return self.answer(400, {"errors": [{"code": "DIGEST_INVALID"}]})
        registry.blobs[name, digest] = bytes(registry.uploads.pop(session))
        return self.answer(201, headers={"Location": f"/v2/{name}/blobs/{digest}"})

    def _place(self, name, session):
        last = max(0, len(self.owner.uploads[session]) - 1)
        return {"Location": f"/v2/{name}/blobs/uploads/{session}?state=x", "Range": f"0-{last}"}

    def _cut_upload(self, fault):
        """Take a part of the body, then go away."""
        match = re.fullmatch(r"/v2/(.+)/blobs/uploads/(.+)", self.path_only)
        part = self.rfile.read(fault.at)
        if match and self.command == "PATCH":
            self.owner.uploads[match[2]] += part
        self.close_connection = True
        self.connection.close()


class LoopbackRegistry(Server):
    """The parts of OCI distribution that we use, in memory."""

    handler = _RegistryHandler

    def __init__(self, *, user=None, has_referrers=False, tells_digest=True, page_size=1000):
        self.user, self.has_referrers = user, has_referrers
        self.tells_digest, self.page_size = tells_digest, page_size
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[str, dict[str, tuple[bytes, str]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.requests: list[Request] = []
        self.lie = b""
        self._faults: list[tuple[str, str, deque[Fault]]] = []
        super().__init__()

    def fail(self, method: str, part: str, *faults: Fault) -> None:
        """Queue faults for requests of ``method`` whose path holds ``part``."""
        self._faults.append((method, part, deque(faults)))

    def next_fault(self, method: str, path: str) -> Fault | None:
        for wanted, part, queue in self._faults:
            if method == wanted and part in path and queue:
                return queue.popleft()
        return None

    def sent(self, method: str, part: str = "") -> list[Request]:
        return [r for r in self.requests if r.method == method and part in r.path]
