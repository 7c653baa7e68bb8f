"""The Hub's write protocol for the loopback Hub: repositories, LFS uploads, commits, tags.

Only what ``huggingface_hub`` asks for when it makes one commit. Tokens are not signed:
the upload links live as long as the test.
"""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import unquote, urlsplit


class HubWrites:
    """Mixed into the handler of the loopback Hub."""

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.writes.append((path, self.headers.get("Authorization", "")))
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                return getattr(self, answer)(body, *match.groups())
        return self._error(404, "EntryNotFound")

    def do_PUT(self) -> None:  # noqa: N802 - likewise
        oid = self.path.rpartition("/")[2]
        self.owner.uploads[oid] = self.rfile.read(int(self.headers["Content-Length"]))
        self._raw(200, b"", "text/plain")

    def _create(self, body: bytes) -> None:
        document = json.loads(body)
        name = f"{document['organization']}/{document['name']}"
        if name in self.owner.repositories:
            return self._error(409, "")
        self.owner.repository(name).commit({})
        return self._json({"url": f"{self.owner.endpoint}/{name}"})

    def _preupload(self, body: bytes, _name: str) -> None:
        files = [
            {"path": f["path"], "shouldIgnore": False,
             "uploadMode": "lfs" if f["size"] >= 1024 else "regular"}
            for f in json.loads(body)["files"]
        ]  # fmt: skip
        self._json({"files": files})

    def _batch(self, body: bytes, _name: str) -> None:
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.owner.endpoint}/lfs/{entry['oid']}"}}}
            for entry in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes, name: str, revision: str) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line]
        repository = self.owner.repository(name)
        parent = repository.resolve(revision)
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in {None, parent}:
            return self._error(412, "")
        files = dict(repository.commits[parent])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.owner.uploads[line["value"]["oid"]]
        sha = repository.commit(files)
        return self._json(
            {"commitOid": sha, "commitUrl": f"{self.owner.endpoint}/{name}/commit/{sha}"}
        )

    def _tag(self, body: bytes, name: str, revision: str) -> None:
        repository = self.owner.repository(name)
        repository.refs[json.loads(body)["tag"]] = repository.resolve(revision)
        self._json({})

    def _validate(self, _body: bytes) -> None:
        self._json({"errors": [], "warnings": []})


_ROUTES = (
    (r"/api/repos/create", "_create"),
    (r"/api/validate-yaml", "_validate"),
    (r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", "_preupload"),
    (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "_batch"),
    (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "_commit"),
    (r"/api/models/([^/]+/[^/]+)/tag/([^/]+)", "_tag"),
)
