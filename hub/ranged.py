"""A remote file as a source of bytes, read in ranges: what ``inspect`` looks through."""

from __future__ import annotations

from adaptrix.hub.remote import Remote, RemoteFile, Snapshot
from adaptrix.schema.errors import FormatError

BLOCK_BYTES = 256 << 10


class RangedSource:
    """Random access to a remote file, in cached blocks.

    Attributes:
        fetched_bytes: Bytes that have travelled so far.
    """

    def __init__(self, remote: Remote, snapshot: Snapshot, file: RemoteFile) -> None:
        self._remote, self._snapshot, self._file = remote, snapshot, file
        self._blocks: dict[int, bytes] = {}
        self.fetched_bytes = 0

    @property
    def name(self) -> str:
        """Relative path of the file."""
        return self._file.path

    @property
    def size_bytes(self) -> int:
        """Announced size."""
        return self._file.size_bytes

    def read(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``.

        Raises:
            FormatError: the range is not inside the file.
            AdaptrixError: it cannot be fetched.
        """
        if not 0 <= start <= stop <= self.size_bytes:
            raise FormatError(
                f"bytes {start} to {stop} of {self.size_bytes}", where=self.name, code="truncated"
            )
        first, last = start // BLOCK_BYTES, max(start, stop - 1) // BLOCK_BYTES
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            stop = min(start + BLOCK_BYTES, self.size_bytes)
            found = b""
            if stop > start:
                found = self._remote.read_range(self._snapshot, self._file, start, stop)
            self._blocks[number] = found
            self.fetched_bytes += len(found)
        return self._blocks[number]
