"""The Hugging Face Hub: its API through ``huggingface_hub``, the bytes by ourselves.

The library answers which commit a revision is and which files it has; the bodies are
streamed through its own HTTP session, so that proxies, certificates and its settings hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from adaptrix.hub.faults import Restart, error_for_status
from adaptrix.hub.http import (
    MAX_REDIRECTS,
    REDIRECTS,
    check_range,
    redirect_target,
    require_secure,
    retry_after_s,
)
from adaptrix.hub.remote import RemoteFile, Snapshot
from adaptrix.hub.settings import HubSettings
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AdaptrixError,
    InvalidReference,
    NotFound,
    PolicyRefused,
    RemoteError,
)
from adaptrix.schema.reference import HubSource

CHUNK_BYTES = 1 << 20
MAX_FILES = 20_000
MAX_NAME = 512
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HuggingFaceHub:
    """One repository at one revision."""

    def __init__(self, source: HubSource, settings: HubSettings) -> None:
        self.source, self.settings = source, settings
        self._etags: dict[str, str] = {}

    def snapshot(self) -> Snapshot:
        """See :meth:`Remote.snapshot`: the revision is pinned to a commit."""
        from huggingface_hub import HfApi  # noqa: PLC0415 - 0.3 s of imports
        from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

        where, settings = str(self.source), self.settings
        self._check_endpoint()
        api = HfApi(endpoint=settings.endpoint, token=settings.token)
        with translated(where, token=settings.token is not None):
            info = api.model_info(
                self.source.repository, revision=self.source.revision, timeout=settings.timeout_s
            )
            commit = str(info.sha or "")
            if not _COMMIT.fullmatch(commit):
                raise RemoteError(f"no commit id: {commit[:60]!r}", where=where, code="bad_answer")
            tree = api.list_repo_tree(self.source.repository, revision=commit, recursive=True)
            files = []
            for entry in tree:
                if isinstance(entry, RepoFile):
                    files.append(_file(entry, where))
                if len(files) > MAX_FILES:
                    raise PolicyRefused(f"more than {MAX_FILES} files", where=where)
        folder = self.source.folder
        inside = [file for file in files if not folder or file.path.startswith(f"{folder}/")]
        if folder and not inside:
            raise NotFound("the repository has no such folder", where=where)
        return Snapshot(
            repository=self.source.repository,
            commit=commit,
            files=tuple(sorted(inside, key=lambda file: file.path)),
            folder=folder,
        )

    def stream(self, snapshot: Snapshot, file: RemoteFile, *, offset: int = 0) -> Iterator[bytes]:
        """See :meth:`Remote.stream`."""
        where = f"{snapshot.repository}:{file.path}"
        if offset >= file.size_bytes:
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and file.path in self._etags:
            headers["If-Range"] = self._etags[file.path]
        with self._open(snapshot, file, headers) as response:
            if offset and response.status_code == 200:
                raise Restart("the server sends the whole file", where=where)
            if offset:
                check_range(response, offset, file.size_bytes, where)
            etag = response.headers.get("etag", "")
            if etag.startswith('"'):
                self._etags[file.path] = etag
            yield from response.iter_bytes(CHUNK_BYTES)

    def read_range(self, snapshot: Snapshot, file: RemoteFile, start: int, stop: int) -> bytes:
        """See :meth:`Remote.read_range`."""
        where = f"{snapshot.repository}:{file.path}"
        with self._open(snapshot, file, {"Range": f"bytes={start}-{stop - 1}"}) as response:
            whole = response.status_code == 200
            if not whole:
                check_range(response, start, file.size_bytes, where)
            wanted = stop if whole else stop - start
            found = bytearray()
            for chunk in response.iter_bytes(CHUNK_BYTES):
                found += chunk
                if len(found) >= wanted:
                    break
        data = bytes(found[start:stop] if whole else found[:wanted])
        if len(data) != stop - start:
            raise RemoteError(f"expected {stop - start} bytes, got {len(data)}", where=where)
        return data

    @contextmanager
    def _open(self, snapshot: Snapshot, file: RemoteFile, headers: dict[str, str]) -> Iterator[Any]:
        """GET the file, following redirects; the token goes to the Hub's own origin only."""
        from huggingface_hub import get_session  # noqa: PLC0415

        self._check_endpoint()
        where = f"{snapshot.repository}:{file.path}"
        path = f"{snapshot.repository}/resolve/{snapshot.commit}/{quote(file.path)}"
        url = f"{self.settings.endpoint}/{path}"
        session = get_session()
        with translated(where, token=self.settings.token is not None):
            for _ in range(MAX_REDIRECTS + 1):
                request = session.build_request(
                    "GET",
                    url,
                    headers={**self._headers(url), **headers},
                    timeout=self.settings.timeout_s,
                )
                response = session.send(request, stream=True, follow_redirects=False)
                try:
                    if response.status_code in REDIRECTS:
                        url = redirect_target(url, response, where)
                        continue
                    self._check(response, where)
                    yield response
                    return
                finally:
                    response.close()
            raise RemoteError("redirected in circles", where=where, code="bad_answer")

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "adaptrix"}
        token = self.settings.token or _saved_token()
        if token and urlsplit(url)[:2] == urlsplit(self.settings.endpoint)[:2]:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _check_endpoint(self) -> None:
        require_secure(self.settings.endpoint)

    def _check(self, response: Any, where: str) -> None:
        status = response.status_code
        if status not in {200, 206}:
            raise error_for_status(
                status,
                where,
                code=response.headers.get("x-error-code", ""),
                pause_s=retry_after_s(response.headers.get("retry-after")),
                token=self.settings.token is not None,
            )
        # A body that httpx would unpack no longer has the announced length.
        if response.headers.get("content-encoding", "identity") not in {"", "identity"}:
            raise RemoteError("an encoded body where bytes were asked for", where=where)


def _saved_token() -> str | None:
    from huggingface_hub import get_token  # noqa: PLC0415

    return get_token()


def _file(entry: Any, where: str) -> RemoteFile:
    """Check an entry of the tree.

    Raises:
        PolicyRefused: a file name that could leave its folder.
    """
    path = str(entry.path)
    parts = path.split("/")
    hostile = (
        not path
        or len(path) > MAX_NAME
        or path.startswith("/")
        or "\\" in path
        or not path.isprintable()
        or any(part in {"", ".", ".."} for part in parts)
        or path[1:2] == ":"
    )
    if hostile:
        raise PolicyRefused(f"unsafe file name {path[:80]!r}", where=where)
    lfs = entry.lfs
    try:
        sha256 = Digest(str(lfs.sha256)) if lfs is not None else None
    except InvalidReference as error:
        raise RemoteError(f"{path}: no sha256", where=where, code="bad_answer") from error
    size = lfs.size if lfs is not None else entry.size
    return RemoteFile(path=path, size_bytes=int(size), sha256=sha256, git_oid=str(entry.blob_id))


@contextmanager
def translated(where: str, *, token: bool) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into our errors."""
    try:
        yield
    except AdaptrixError:
        raise
    except Exception as error:
        raise _meaning(error, where, token=token) from error


def _meaning(error: Exception, where: str, *, token: bool) -> AdaptrixError:
    """Our error for one of theirs; by duck typing, since 1.x and 2.x differ in their client."""
    names = {kind.__name__ for kind in type(error).__mro__}
    response = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):
        code = response.headers.get("x-error-code", "")
        pause = retry_after_s(response.headers.get("retry-after"))
        return error_for_status(response.status_code, where, code=code, pause_s=pause, token=token)
    if "OfflineModeIsEnabled" in names:
        return RemoteError("offline mode is on", where=where, code="offline")
    if "HFValidationError" in names:
        return InvalidReference(str(error), where=where)
    if "TimeoutException" in names:
        return RemoteError("no answer in time", where=where, code="timeout")
    if names & {"HTTPError", "TransportError", "RequestError", "StreamError", "OSError"}:
        text = str(error) or type(error).__name__
        return RemoteError(text, where=where, hint="Check the network and HF_ENDPOINT.")
    text = f"not what a Hub answers: {type(error).__name__}: {error}"
    return RemoteError(text[:300], where=where, code="bad_answer", hint="Check HF_ENDPOINT.")
