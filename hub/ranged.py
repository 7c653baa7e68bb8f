"""A remote file as a source of bytes, read in ranges: what ``inspect`` looks through."""

from __future__ import annotations

from collections import OrderedDict

from adaptrix.hub.remote import Remote, RemoteFile, Snapshot
from adaptrix.schema.errors import FormatError

BLOCK_BYTES = 32 << 10
MAX_BLOCKS = 1024
"""Blocks that are remembered: a header of 16 MiB, twice over."""


class RangedSource:
    """Random access to a remote file, in cached blocks.

    Blocks are small, since headers are; what lacks for one read comes in one request.

    Attributes:
        fetched_bytes: Bytes that have travelled so far.
    """

    def __init__(self, remote: Remote, snapshot: Snapshot, file: RemoteFile) -> None:
        self._remote, self._snapshot, self._file = remote, snapshot, file
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
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
        if start == stop:
            return b""
        wanted = range(start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1)
        found = {number: self._blocks[number] for number in wanted if number in self._blocks}
        lacking = [number for number in wanted if number not in found]
        if lacking:
            found |= self._fetch(lacking[0], lacking[-1])
        for number in wanted:
            self._blocks[number] = found[number]
            self._blocks.move_to_end(number)
        while len(self._blocks) > MAX_BLOCKS:
            self._blocks.popitem(last=False)
        skipped = wanted[0] * BLOCK_BYTES
        return b"".join(found[number] for number in wanted)[start - skipped : stop - skipped]

    def _fetch(self, first: int, last: int) -> dict[int, bytes]:
        """Blocks ``first`` to ``last`` in one request."""
        start = first * BLOCK_BYTES
        stop = min((last + 1) * BLOCK_BYTES, self.size_bytes)
        came = self._remote.read_range(self._snapshot, self._file, start, stop)
        self.fetched_bytes += len(came)
        return {
            number: came[(number - first) * BLOCK_BYTES : (number - first + 1) * BLOCK_BYTES]
            for number in range(first, last + 1)
        }
