"""What a blob store promises, and one that lives in memory.

A blob is bytes under the digest of those bytes. The only way in is a writer that counts
and hashes what passes through it; a blob whose size or digest is not the announced one
never becomes visible. ``put`` of what is there changes nothing but the time of last use.
The interface is stable; :class:`MemoryStore` is the reference implementation for tests
and dry runs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError
from adaptrix.store.verifier import (
    Chunk,
    MissingBlob,
    Verifier,
    as_bytes_view,
    published,
    resumable,
    too_long,
)


class BlobWriter(Protocol):
    """A blob on its way in. Leaving the ``with`` block checks and publishes it."""

    @property
    def offset(self) -> int:
        """Bytes so far; after resuming, those that were already there."""

    @property
    def descriptor(self) -> Descriptor:
        """What was published; only after the block was left without an error."""

    def write(self, chunk: Chunk, /) -> int:
        """Add bytes; returns how many.

        Raises:
            SizeMismatch: more than ``expected_size``.
            StoreError: they could not be written.
        """

    def restart(self) -> None:
        """Forget all bytes so far, also those of an earlier attempt."""


class BlobStore(Protocol):
    """Blobs by digest."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""

    def size(self, digest: Digest) -> int:
        """Its size in bytes.

        Raises:
            MissingBlob: no such blob.
        """

    def path(self, digest: Digest) -> Path | None:
        """Its file, for reading only; None when it is not there or has no file."""

    def read(self, digest: Digest) -> bytes:
        """All its bytes, verified.

        Raises:
            MissingBlob: no such blob.
            DigestMismatch: the stored bytes were damaged.
        """

    def open(self, digest: Digest) -> BinaryIO:
        """A stream of its bytes, not verified: for what verifies by itself.

        Raises:
            MissingBlob: no such blob.
        """

    def put(self, data: Chunk, media_type: str = "") -> Digest:
        """Store ``data``; returns its digest.

        Raises:
            StoreError: it could not be written.
        """

    def writer(
        self,
        *,
        expected_digest: Digest | None = None,
        expected_size: int | None = None,
        partial: str | None = None,
        media_type: str = "",
    ) -> AbstractContextManager[BlobWriter]:
        """Stream a blob in.

        Args:
            expected_digest: Announced digest.
            expected_size: Announced size in bytes.
            partial: Name of the attempt. What a failed attempt left under this name is
                hashed again and continued; see :attr:`BlobWriter.offset`.
            media_type: For the descriptor.

        Raises:
            DigestMismatch: on leaving the block; the bytes are dropped.
            SizeMismatch: on leaving the block; a short attempt can be resumed.
            StoreError: it could not be written.
        """

    def digests(self) -> Iterator[Digest]:
        """All blobs, sorted."""


class MemoryStore:
    """Blobs in memory."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._partial: dict[str, bytes] = {}

    def has(self, digest: Digest) -> bool:
        """See :meth:`BlobStore.has`."""
        return digest in self._blobs

    def size(self, digest: Digest) -> int:
        """See :meth:`BlobStore.size`."""
        return len(self._get(digest))

    def path(self, digest: Digest) -> Path | None:
        """None: blobs in memory have no file."""
        return None

    def read(self, digest: Digest) -> bytes:
        """See :meth:`BlobStore.read`."""
        return self._get(digest)

    def open(self, digest: Digest) -> BinaryIO:
        """See :meth:`BlobStore.open`."""
        return io.BytesIO(self._get(digest))

    def put(self, data: Chunk, media_type: str = "") -> Digest:
        """See :meth:`BlobStore.put`."""
        with self.writer(media_type=media_type) as sink:
            sink.write(data)
        return sink.descriptor.digest

    def writer(
        self,
        *,
        expected_digest: Digest | None = None,
        expected_size: int | None = None,
        partial: str | None = None,
        media_type: str = "",
    ) -> MemoryWriter:
        """See :meth:`BlobStore.writer`."""
        verifier = Verifier(expected_digest, expected_size)
        return MemoryWriter(self._blobs, self._partial, verifier, partial, media_type)

    def digests(self) -> Iterator[Digest]:
        """See :meth:`BlobStore.digests`."""
        return iter(sorted(self._blobs))

    def _get(self, digest: Digest) -> bytes:
        try:
            return self._blobs[digest]
        except KeyError:
            raise MissingBlob(digest) from None


class MemoryWriter:
    """Writer of :class:`MemoryStore`."""

    def __init__(
        self,
        blobs: dict[Digest, bytes],
        partials: dict[str, bytes],
        verifier: Verifier,
        partial: str | None,
        media_type: str,
    ) -> None:
        self._blobs = blobs
        self._partials = partials
        self._verifier = verifier
        self._partial = partial
        self._media_type = media_type
        self._buffer = bytearray()
        self._descriptor: Descriptor | None = None

    @property
    def offset(self) -> int:
        """See :attr:`BlobWriter.offset`."""
        return self._verifier.count

    @property
    def descriptor(self) -> Descriptor:
        """See :attr:`BlobWriter.descriptor`."""
        return published(self._descriptor)

    def write(self, chunk: Chunk, /) -> int:
        """See :meth:`BlobWriter.write`."""
        view = as_bytes_view(chunk)
        self._verifier.update(view)
        self._buffer += view
        return view.nbytes

    def restart(self) -> None:
        """See :meth:`BlobWriter.restart`."""
        self._verifier.restart()
        self._buffer.clear()

    def __enter__(self) -> Self:
        earlier = self._partials.pop(self._partial, b"") if self._partial is not None else b""
        if not too_long(earlier, self._verifier.expected_size):
            self.write(earlier)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._keep(error)
            return
        try:
            digest = self._verifier.finish()
        except IntegrityError as mismatch:
            self._keep(mismatch)
            raise
        self._blobs.setdefault(digest, bytes(self._buffer))
        self._descriptor = Descriptor(
            media_type=self._media_type, digest=digest, size_bytes=self._verifier.count
        )

    def _keep(self, error: BaseException) -> None:
        if self._partial is not None and self._buffer and resumable(error):
            self._partials[self._partial] = bytes(self._buffer)
