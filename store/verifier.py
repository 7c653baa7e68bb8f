"""What every writer does with the bytes that pass through it: count, hash, compare."""

from __future__ import annotations

import hashlib
import json
from typing import TypeAlias

from adaptrix.schema import media_types
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError, PolicyRefused, StoreError

Chunk: TypeAlias = bytes | bytearray | memoryview
MAX_RECORD_BYTES = 16 << 10
"""Size limit of a reference record; longer blobs are never taken for one."""


class DigestMismatch(IntegrityError):
    """Bytes of another digest than announced.

    Attributes:
        expected: The announced digest.
        actual: The digest of the bytes.
    """

    code = "digest_mismatch"

    def __init__(self, *, expected: Digest, actual: Digest, size_bytes: int, where: str) -> None:
        super().__init__(
            f"expected {expected}, got {actual} ({size_bytes} bytes)",
            where=where,
            hint="The bytes are damaged or were replaced. Fetch them again.",
        )
        self.expected = expected
        self.actual = actual


class SizeMismatch(IntegrityError):
    """More or fewer bytes than announced.

    Attributes:
        expected_bytes: The announced size.
        actual_bytes: How many came (for too many: how many had come when it was noticed).
    """

    code = "size_mismatch"

    def __init__(self, *, expected_bytes: int, actual_bytes: int, where: str) -> None:
        what = "truncated" if actual_bytes < expected_bytes else "too long"
        super().__init__(
            f"{what}: expected {expected_bytes} bytes, got {actual_bytes}",
            where=where,
            hint="Fetch it again.",
        )
        self.expected_bytes = expected_bytes
        self.actual_bytes = actual_bytes


class MissingBlob(StoreError):
    """No such blob in the store."""

    code = "missing_blob"

    def __init__(self, digest: Digest) -> None:
        super().__init__(
            "not in the store",
            where=f"blob {digest}",
            hint="Run adaptrix fsck to see what needs it, then pull that again.",
        )
        self.digest = digest


class Verifier:
    """Counts and hashes a stream against what was announced."""

    __slots__ = ("_expected_digest", "_hash", "_head", "count", "expected_size")

    def __init__(self, expected_digest: Digest | None, expected_size: int | None) -> None:
        self._expected_digest = expected_digest
        self.expected_size = expected_size
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._hash = hashlib.sha256()
        self._head = b""
        self.count = 0

    @property
    def where(self) -> str:
        """The blob, for messages."""
        return f"blob {self._expected_digest}" if self._expected_digest else "blob"

    def update(self, chunk: memoryview) -> None:
        """Count and hash ``chunk``.

        Raises:
            SizeMismatch: more bytes than announced.
        """
        self.count += chunk.nbytes
        if self.expected_size is not None and self.count > self.expected_size:
            raise SizeMismatch(
                expected_bytes=self.expected_size, actual_bytes=self.count, where=self.where
            )
        self._hash.update(chunk)
        if len(self._head) <= MAX_RECORD_BYTES:
            self._head += bytes(chunk[: MAX_RECORD_BYTES + 1 - len(self._head)])

    def finish(self, *, own_record: bool = False) -> Digest:
        """Digest of everything.

        Raises:
            SizeMismatch: fewer bytes than announced.
            DigestMismatch: not the announced digest.
            PolicyRefused: the bytes pose as a reference record, which only the store
                itself writes: the names would be rebuilt from them.
        """
        if self.expected_size is not None and self.count != self.expected_size:
            raise SizeMismatch(
                expected_bytes=self.expected_size, actual_bytes=self.count, where=self.where
            )
        actual = Digest(self._hash.hexdigest())
        if self._expected_digest is not None and actual != self._expected_digest:
            raise DigestMismatch(
                expected=self._expected_digest,
                actual=actual,
                size_bytes=self.count,
                where=self.where,
            )
        if not own_record and poses_as_reference_record(self._head):
            raise PolicyRefused(
                f"content of type {media_types.REFERENCE_RECORD} is written by the store only",
                where=self.where,
                code="posing_record",
            )
        return actual


def poses_as_reference_record(data: bytes) -> bool:
    """Whether ``data`` would be read as a reference record when names are rebuilt."""
    if len(data) > MAX_RECORD_BYTES or not data.startswith(b"{"):
        return False
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("mediaType") == media_types.REFERENCE_RECORD


def as_bytes_view(chunk: Chunk) -> memoryview:
    """``chunk`` as a flat view of bytes, without a copy."""
    return memoryview(chunk).cast("B")


def too_long(data: bytes, expected_size: int | None) -> bool:
    """Whether bytes of an earlier attempt cannot be the beginning of this blob."""
    return expected_size is not None and len(data) > expected_size


def resumable(error: BaseException) -> bool:
    """Whether the bytes that came before ``error`` are worth keeping.

    A wrong digest or too many bytes say that they are not the beginning of the blob.
    """
    if isinstance(error, SizeMismatch):
        return error.actual_bytes < error.expected_bytes
    return not isinstance(error, IntegrityError | PolicyRefused)


def published(descriptor: Descriptor | None) -> Descriptor:
    """``descriptor``, which exists only once the blob is in the store.

    Raises:
        StoreError: it was asked for inside the block, or after a failure.
    """
    if descriptor is None:
        raise StoreError("a blob has a descriptor only after its writer succeeded", where="blob")
    return descriptor
