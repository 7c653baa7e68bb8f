"""What a place that keeps versions looks like: an OCI registry or a shared folder.

Blobs and manifests have digests there as here, so a version keeps its identity wherever
it travels. Names are ours; each place maps them to its own (repositories, annotations).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from adaptrix.hub.remote import Progress, RemoteFile, Snapshot
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import RemoteError, StoreError

OpenBlob = Callable[[], AbstractContextManager[BinaryIO]]
KEEPING_TAG = "lineage-"
"""Tags that keep ancestors from being collected as untagged."""
_HIDDEN_TAGS = (KEEPING_TAG, "sha256-")


class Sent(enum.Enum):
    """How a blob came to be at a remote."""

    UPLOADED = "uploaded"
    MOUNTED = "mounted"
    PRESENT = "present"


class TagMoved(StoreError):
    """The remote's tag points elsewhere than the sender knows.

    Attributes:
        wanted: Where the sender believed it points; None for "does not exist".
        got: Where it points.
    """

    code = "tag_moved"

    def __init__(self, *, where: str, wanted: Digest | None, got: Digest | None) -> None:
        super().__init__(
            f"the remote has {got or 'no such tag'}, expected {wanted or 'no such tag'}",
            where=where,
            hint="Somebody moved it. Pull it and look at it first, or push with --force.",
        )
        self.wanted = wanted
        self.got = got


class VersionRemote(Protocol):
    """A place that keeps versions."""

    @property
    def label(self) -> str:
        """The place as it is printed."""

    def names(self) -> tuple[str, ...]:
        """All names, sorted.

        Raises:
            AdaptrixError: the place does not list them.
        """

    def tags(self, name: str) -> tuple[str, ...]:
        """Tags of a name, sorted; empty when there is no such name."""

    def resolve(self, name: str, tag: str) -> Digest | None:
        """Where a tag points; None when it does not exist."""

    def manifest(self, name: str, digest: Digest) -> bytes:
        """A manifest, verified.

        Raises:
            NotFound: it is not there.
            IntegrityError: the bytes have another digest.
        """

    def stream(
        self, name: str, digest: Digest, size_bytes: int, *, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """One attempt at the bytes ``[start, stop)`` of a blob, not verified."""

    def push_blob(
        self,
        name: str,
        blob: Descriptor,
        opened: OpenBlob,
        *,
        near: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Sent:
        """See to it that a blob is there.

        Args:
            name: For which name.
            blob: Digest and size.
            opened: Opens its bytes; called once per attempt.
            near: Other names that may have it already.
            progress: Told of the bytes.
        """

    def has_blob(self, name: str, blob: Descriptor) -> bool:
        """Whether the blob is there under this name."""

    def push_manifest(
        self, name: str, data: bytes, *, tag: str, expected: Digest | None, force: bool = False
    ) -> Digest:
        """Store a manifest whose blobs are there, and point ``tag`` to it.

        Args:
            name: The name.
            data: The manifest.
            tag: The tag.
            expected: Where the tag points now; None for "does not exist".
            force: Move it wherever it points.

        Raises:
            TagMoved: it points elsewhere than ``expected``.
        """

    def close(self) -> None:
        """Close the connections."""


class VersionFiles:
    """Blobs of one name as files; follows :class:`adaptrix.hub.remote.Remote`.

    Attributes:
        remote: The place.
        name: The name.
    """

    def __init__(self, remote: VersionRemote, name: str, snapshot: Snapshot) -> None:
        self.remote, self.name = remote, name
        self._snapshot = snapshot

    def snapshot(self) -> Snapshot:
        """See :class:`~adaptrix.hub.remote.Remote`."""
        return self._snapshot

    def stream(self, snapshot: Snapshot, file: RemoteFile, *, offset: int = 0) -> Iterator[bytes]:
        """See :class:`~adaptrix.hub.remote.Remote`."""
        if offset < file.size_bytes or not file.size_bytes:
            yield from self.remote.stream(self.name, _digest(file), file.size_bytes, start=offset)

    def read_range(self, snapshot: Snapshot, file: RemoteFile, start: int, stop: int) -> bytes:
        """See :class:`~adaptrix.hub.remote.Remote`."""
        chunks = self.remote.stream(
            self.name, _digest(file), file.size_bytes, start=start, stop=stop
        )
        found = b"".join(chunks)
        if len(found) != stop - start:
            where = f"{self.remote.label}/{self.name}:{file.path}"
            raise RemoteError(f"expected {stop - start} bytes, got {len(found)}", where=where)
        return found


def visible_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """``tags`` without those that serve other purposes than to be read."""
    return tuple(sorted(tag for tag in tags if not tag.startswith(_HIDDEN_TAGS)))


def _digest(file: RemoteFile) -> Digest:
    assert file.sha256 is not None
    return file.sha256
