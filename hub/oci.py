"""A registry that speaks OCI distribution, as a place for versions.

``REMOTE/name:tag`` is the repository ``[prefix/]name``. Everything that comes from the
registry is checked here: digests of manifests, sizes of answers, links to further pages.
Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from adaptrix.hub.credentials import Credential
from adaptrix.hub.faults import ContentMismatch, Restart
from adaptrix.hub.http import check_range, origin_of
from adaptrix.hub.location import RemoteLocation
from adaptrix.hub.oci_transport import Answer, Call, OciTransport
from adaptrix.hub.oci_upload import CHUNK_BYTES, BlobUpload, pull_scope, push_scope
from adaptrix.hub.remote import Progress
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.versions import OpenBlob, Sent, TagMoved
from adaptrix.schema import media_types
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError, InvalidReference, NotFound, RemoteError
from adaptrix.schema.manifest import json_object

INDEX = "application/vnd.oci.image.index.v1+json"
_ACCEPT = ", ".join(
    (
        media_types.MANIFEST,
        INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_CATALOG_SCOPE = "registry:catalog:*"
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_PAGE = 1000
_MAX_PAGES = 1000
_STREAM_BYTES = 1 << 20


class OciRegistry:
    """A registry; follows :class:`adaptrix.hub.versions.VersionRemote`."""

    def __init__(
        self,
        location: RemoteLocation,
        *,
        credential: Credential | None = None,
        settings: HubSettings | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.location = location
        self.transport = OciTransport(
            location.origin,
            credential=credential,
            settings=settings,
            insecure=location.insecure,
            pause=pause,
        )
        self._chunk_bytes = chunk_bytes

    @property
    def label(self) -> str:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        return self.location.url

    def ping(self) -> None:
        """Ask whether this is a registry that lets us in.

        Raises:
            AccessDenied: it does not let us in.
            RemoteError: it is no registry, or cannot be reached.
        """
        try:
            self.transport.ask(Call(method="GET", url="/v2/"))
        except NotFound as error:
            raise RemoteError(
                "no OCI registry there", where=self.label, code="bad_answer"
            ) from error

    def repository(self, name: str) -> str:
        """The repository of a name."""
        prefix = self.location.path
        return f"{prefix}/{name}" if prefix else name

    def names(self) -> tuple[str, ...]:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        prefix = f"{self.location.path}/" if self.location.path else ""
        try:
            found = self._pages(f"/v2/_catalog?n={_PAGE}", (_CATALOG_SCOPE,), "repositories")
        except NotFound as error:
            raise RemoteError(
                "the registry has no catalogue",
                where=self.label,
                hint="Name what you want: adaptrix pull REMOTE/NAME.",
                code="no_catalogue",
            ) from error
        return tuple(sorted(n.removeprefix(prefix) for n in found if n.startswith(prefix)))

    def tags(self, name: str) -> tuple[str, ...]:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        repository = self.repository(name)
        url = f"/v2/{repository}/tags/list?n={_PAGE}"
        try:
            return tuple(sorted(self._pages(url, (pull_scope(repository),), "tags")))
        except NotFound:
            return ()

    def resolve(self, name: str, tag: str) -> Digest | None:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        try:
            answer = self._manifest(name, tag, method="HEAD")
        except NotFound:
            return None
        announced = answer.headers.get("docker-content-digest", "")
        if announced:
            return _digest(announced, f"{self.label}/{name}:{tag}")
        return Digest.of(self._manifest(name, tag).body)

    def manifest(self, name: str, digest: Digest) -> bytes:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        data = self._manifest(name, str(digest)).body
        actual = Digest.of(data)
        if actual != digest:
            raise ContentMismatch(
                where=f"{self.label}/{name}",
                expected=digest,
                actual=actual,
                size_bytes=len(data),
            )
        return data

    def has_blob(self, name: str, blob: Descriptor) -> bool:
        """See :class:`~adaptrix.hub.versions.VersionRemote`.

        Raises:
            IntegrityError: it is there with another size.
        """
        repository = self.repository(name)
        call = Call(
            method="HEAD",
            url=f"/v2/{repository}/blobs/{blob.digest}",
            scopes=(pull_scope(repository),),
        )
        try:
            answer = self.transport.ask(call)
        except NotFound:
            return False
        length = answer.headers.get("content-length", "")
        if length.isdigit() and int(length) != blob.size_bytes:
            raise IntegrityError(
                f"expected {blob.size_bytes} bytes, the registry has {length}",
                where=f"{self.label}/{name} blob {blob.digest}",
            )
        return True

    def stream(
        self, name: str, digest: Digest, size_bytes: int, *, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        repository = self.repository(name)
        where = f"{self.label}/{name} blob {digest}"
        partial = bool(start) or stop is not None
        end = "" if stop is None else str(stop - 1)
        call = Call(
            method="GET",
            url=f"/v2/{repository}/blobs/{digest}",
            scopes=(pull_scope(repository),),
            # A digest names the bytes for good: no If-Range is needed.
            headers={"Range": f"bytes={start}-{end}"} if partial else {},
            expected=frozenset({200, 206}),
        )
        with self.transport.open(call) as response:
            if partial and response.status_code == 200:
                if start:
                    raise Restart("the server sends the whole blob", where=where)
            elif partial:
                check_range(response, start, size_bytes, where)
            if response.headers.get("content-encoding", "identity") not in {"", "identity"}:
                raise RemoteError("an encoded body where bytes were asked for", where=where)
            left = (size_bytes if stop is None else stop) - start
            for chunk in response.iter_raw(_STREAM_BYTES):
                if stop is not None and len(chunk) > left:
                    yield chunk[:left]
                    return
                left -= len(chunk)
                yield chunk

    def push_blob(
        self,
        name: str,
        blob: Descriptor,
        opened: OpenBlob,
        *,
        near: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Sent:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        if self.has_blob(name, blob):
            return Sent.PRESENT
        upload = BlobUpload(self.transport, self.repository(name), chunk_bytes=self._chunk_bytes)
        others = [self.repository(other) for other in near if other != name]
        return upload.push(blob, opened, near=others, progress=progress)

    def push_manifest(
        self, name: str, data: bytes, *, tag: str, expected: Digest | None, force: bool = False
    ) -> Digest:
        """See :class:`~adaptrix.hub.versions.VersionRemote`.

        The protocol has no compare-and-swap: the tag is looked at directly before and
        after, which leaves a gap of one request.
        """
        where, digest = f"{self.label}/{name}:{tag}", Digest.of(data)
        current = self.resolve(name, tag)
        if current == digest:
            return digest
        if current != expected and not force:
            raise TagMoved(where=where, wanted=expected, got=current)
        self.put_manifest(name, data, reference=tag)
        after = self.resolve(name, tag)
        if after != digest:
            raise TagMoved(where=where, wanted=digest, got=after)
        return digest

    def put_manifest(
        self, name: str, data: bytes, *, reference: str, media_type: str = media_types.MANIFEST
    ) -> Answer:
        """Store a manifest under a tag or its digest.

        Raises:
            IntegrityError: the registry read other bytes than were sent.
        """
        repository = self.repository(name)
        call = Call(
            method="PUT",
            url=f"/v2/{repository}/manifests/{quote(reference)}",
            scopes=(push_scope(repository),),
            # Without a length it would be sent in chunks, which some registries refuse.
            headers={"Content-Type": media_type, "Content-Length": str(len(data))},
            body=lambda: (data,),
            expected=frozenset({200, 201}),
        )
        answer = self.transport.ask(call)
        announced = answer.headers.get("docker-content-digest", "")
        if announced and announced != str(Digest.of(data)):
            raise IntegrityError(
                f"sent {Digest.of(data)}, the registry has {announced[:80]}",
                where=f"{self.label}/{name}:{reference}",
            )
        return answer

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def _manifest(self, name: str, reference: str, *, method: str = "GET") -> Answer:
        repository = self.repository(name)
        call = Call(
            method=method,
            url=f"/v2/{repository}/manifests/{quote(reference)}",
            scopes=(pull_scope(repository),),
            headers={"Accept": _ACCEPT},
        )
        return self.transport.ask(call)

    def _pages(self, url: str, scopes: tuple[str, ...], field: str) -> list[str]:
        found: list[str] = []
        next_url: str | None = url
        for _ in range(_MAX_PAGES):
            if next_url is None:
                return found
            answer = self.transport.ask(Call(method="GET", url=next_url, scopes=scopes))
            entries = json_object(answer.body, next_url).get(field) or []
            if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
                raise RemoteError(f"no list of {field}", where=self.label, code="bad_answer")
            found += entries
            next_url = self._next(answer)
        raise RemoteError("pages without an end", where=self.label, code="bad_answer")

    def _next(self, answer: Answer) -> str | None:
        match = _NEXT.search(answer.headers.get("link", ""))
        if match is None:
            return None
        url = self.transport.absolute(match[1], base=answer.url)
        if origin_of(url) != origin_of(self.location.origin):
            raise RemoteError("the next page is elsewhere", where=self.label, code="bad_answer")
        return url


def _digest(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidReference as error:
        raise RemoteError(f"no digest: {text[:80]!r}", where=where, code="bad_answer") from error
