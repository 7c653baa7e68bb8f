"""A blob's way into a registry: found there, mounted, or uploaded whole or in chunks.

Source: OCI distribution-spec 1.1, "Pushing blobs".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from adaptrix.hub.faults import is_temporary
from adaptrix.hub.http import shown
from adaptrix.hub.oci_transport import Answer, Call, OciTransport
from adaptrix.hub.remote import Progress, Silent
from adaptrix.hub.versions import OpenBlob, Sent
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.errors import AccessDenied, AdaptrixError, NotFound, RemoteError

CHUNK_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


def pull_scope(repository: str) -> str:
    """Scope of a token that may read."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """Scope of a token that may write."""
    return f"repository:{repository}:pull,push"


@dataclass(slots=True, kw_only=True)
class _Session:
    """An upload that has begun.

    Attributes:
        location: Where the next bytes go.
        offset: Bytes that the registry has.
        chunk_bytes: Size of a chunk.
    """

    location: str
    offset: int = 0
    chunk_bytes: int = CHUNK_BYTES


class BlobUpload:
    """Uploads into one repository of one registry."""

    def __init__(
        self, transport: OciTransport, repository: str, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._transport = transport
        self._repository = repository
        self._chunk_bytes = chunk_bytes
        self._scopes = (push_scope(repository),)

    def push(
        self,
        blob: Descriptor,
        opened: OpenBlob,
        *,
        near: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Sent:
        """Bring ``blob`` in; see :meth:`adaptrix.hub.versions.VersionRemote.push_blob`.

        Raises:
            AdaptrixError: the last attempt's error.
        """
        session = None
        for other in near:
            session = self._mount(blob, other)
            if session is None:
                return Sent.MOUNTED
        watcher = progress or Silent()
        watcher.start(blob.digest.short, blob.size_bytes, 0)
        attempt = 0
        while True:
            attempt += 1
            try:
                session = session or self._begin()
                self._upload(blob, opened, session, watcher)
            except AdaptrixError as error:
                if not _again(error) or attempt >= self._transport.settings.attempts:
                    raise
                self._transport.pause(error, attempt)
                session = None
            else:
                watcher.finish()
                return Sent.UPLOADED

    def _mount(self, blob: Descriptor, other: str) -> _Session | None:
        """Ask for the blob of another repository; None when that was done.

        A registry that cannot, or will not, begins an upload instead.
        """
        query = f"?mount={quote(str(blob.digest))}&from={quote(other, safe='')}"
        call = Call(
            method="POST",
            url=f"/v2/{self._repository}/blobs/uploads/{query}",
            scopes=(*self._scopes, pull_scope(other)),
            headers={"Content-Length": "0"},
            expected=frozenset({201, 202}),
        )
        try:
            answer = self._transport.ask(call)
        except AccessDenied:
            # No right to read the other repository: then the bytes travel.
            return self._begin()
        return None if answer.status == 201 else self._session(answer)

    def _begin(self) -> _Session:
        call = Call(
            method="POST",
            url=f"/v2/{self._repository}/blobs/uploads/",
            scopes=self._scopes,
            headers={"Content-Length": "0"},
            expected=frozenset({202}),
        )
        return self._session(self._transport.ask(call))

    def _session(self, answer: Answer) -> _Session:
        least = answer.headers.get("oci-chunk-min-length", "")
        chunk_bytes = max(self._chunk_bytes, int(least) if least.isdigit() else 0)
        return _Session(location=self._location(answer), chunk_bytes=chunk_bytes)

    def _location(self, answer: Answer) -> str:
        location = answer.headers.get("location", "")
        if not location:
            where = shown(answer.url)
            raise RemoteError("no Location for the upload", where=where, code="bad_answer")
        return self._transport.absolute(location, base=answer.url)

    def _upload(
        self, blob: Descriptor, opened: OpenBlob, session: _Session, progress: Progress
    ) -> None:
        if blob.size_bytes <= session.chunk_bytes:
            self._finish(blob, opened, session, whole=True)
            progress.advance(blob.size_bytes)
            return
        failures = 0
        while session.offset < blob.size_bytes:
            before = session.offset
            try:
                self._patch(blob, opened, session)
            except AdaptrixError as error:
                failures += 1
                if not _again(error) or failures >= self._transport.settings.attempts:
                    raise
                self._transport.pause(error, failures)
                self._ask_offset(session)
            progress.advance(max(0, session.offset - before))
        self._finish(blob, opened, session, whole=False)

    def _patch(self, blob: Descriptor, opened: OpenBlob, session: _Session) -> None:
        stop = min(session.offset + session.chunk_bytes, blob.size_bytes)
        start = session.offset
        call = Call(
            method="PATCH",
            url=session.location,
            scopes=self._scopes,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(stop - start),
                "Content-Range": f"{start}-{stop - 1}",
            },
            body=lambda: _part(opened, start, stop),
            expected=frozenset({202, 416}),
            once=True,
        )
        answer = self._transport.ask(call)
        if answer.status == 416:
            self._ask_offset(session)
            return
        session.location = self._location(answer)
        session.offset = _offset(answer, stop)

    def _ask_offset(self, session: _Session) -> None:
        """What the registry has of an upload that was interrupted."""
        call = Call(
            method="GET",
            url=session.location,
            scopes=self._scopes,
            expected=frozenset({204}),
        )
        answer = self._transport.ask(call)
        session.location = self._location(answer)
        session.offset = _offset(answer, 0)

    def _finish(
        self, blob: Descriptor, opened: OpenBlob, session: _Session, *, whole: bool
    ) -> None:
        mark = "&" if "?" in session.location else "?"
        size = blob.size_bytes if whole else 0
        call = Call(
            method="PUT",
            url=f"{session.location}{mark}digest={quote(str(blob.digest))}",
            scopes=self._scopes,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            body=(lambda: _part(opened, 0, blob.size_bytes)) if whole else None,
            expected=frozenset({201}),
            once=True,
        )
        self._transport.ask(call)


def _again(error: AdaptrixError) -> bool:
    """A registry that was restarted no longer knows its uploads."""
    return is_temporary(error) or isinstance(error, NotFound)


def _offset(answer: Answer, otherwise: int) -> int:
    """Bytes that the registry has: ``Range: 0-N`` names the last one."""
    match = _RANGE.fullmatch(answer.headers.get("range", ""))
    if match is None:
        return otherwise
    last = int(match[1])
    # 0-0 stands for nothing as well as for one byte: the latter is never sent alone.
    return last + 1 if last else 0


def _part(opened: OpenBlob, start: int, stop: int) -> Iterator[bytes]:
    with opened() as stream:
        stream.seek(start)
        left = stop - start
        while left and (chunk := stream.read(min(left, _READ_BYTES))):
            left -= len(chunk)
            yield chunk
