"""Writes stored zip archives of tensors as streams: the same tensors give the same bytes.

Entries are stored, dated 1980-01-01 and padded so that what they hold begins at a multiple
of 64 bytes, as torch's own writer does, so that tensors can be mapped. A local header has its
entry's checksum, so every tensor is read twice, one after the other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adaptrix.convert.tensor_file import EncodedFile, tensor_chunks
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import LazyTensor

_ALIGNMENT = 64
_MOST_BYTES, _MOST_ENTRIES = (1 << 32) - (1 << 24), (1 << 16) - 16
"""Sizes, offsets and counts of a zip archive without its 64-bit extension."""
_UTF_8 = 0x800


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an archive: some bytes, and a tensor's after them.

    Attributes:
        name: Its name in the archive.
        head: First bytes.
        tensor: Name of the tensor whose bytes follow, or ``""``.
    """

    name: bytes
    head: bytes = b""
    tensor: str = ""


def check_fits(tensors: Mapping[str, LazyTensor], where: str) -> None:
    """Refuse what one archive has no room for.

    Raises:
        Refused: about 4 GiB and more, or more than 65 519 tensors.
    """
    size = sum(tensor.size_bytes for tensor in tensors.values())
    if size > _MOST_BYTES or len(tensors) > _MOST_ENTRIES:
        message = f"{len(tensors)} tensors of {size} bytes do not fit into one zip archive"
        raise Refused(message, where=where, code="unsupported_target")


def zip_archive(entries: Sequence[Entry], tensors: Mapping[str, LazyTensor]) -> EncodedFile:
    """An archive of ``entries``, in their order; see :func:`check_fits`."""
    size, directory = 0, 22
    for entry in entries:
        length = _size(entry, tensors)
        size += len(_local(entry, length, size, 0)) + length
        directory += 46 + len(entry.name)
    return EncodedFile(b"", _chunks(entries, tensors), size + directory)


def _size(entry: Entry, tensors: Mapping[str, LazyTensor]) -> int:
    return len(entry.head) + (tensors[entry.tensor].size_bytes if entry.tensor else 0)


def _chunks(
    entries: Sequence[Entry], tensors: Mapping[str, LazyTensor]
) -> Iterator[bytes | memoryview]:
    offset, records = 0, []
    for entry in entries:
        length, checksum = _size(entry, tensors), 0
        for part in _content(entry, tensors):
            checksum = zlib.crc32(part, checksum)
        head = _local(entry, length, offset, checksum)
        records.append(_central(entry, length, offset, checksum))
        yield head
        yield from _content(entry, tensors)
        offset += len(head) + length
    central = b"".join(records)
    count = len(entries)
    yield central
    yield struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(central), offset, 0)


def _content(entry: Entry, tensors: Mapping[str, LazyTensor]) -> Iterator[bytes | memoryview]:
    if entry.head:
        yield entry.head
    if entry.tensor:
        yield from tensor_chunks(tensors, [entry.tensor], lambda _: 0)


def _fields(entry: Entry, length: int, checksum: int) -> bytes:
    """Version, flags, method (stored), time and date (1980-01-01), CRC, both sizes."""
    flags = 0 if entry.name.isascii() else _UTF_8
    return struct.pack("<HHHHHIII", 20, flags, 0, 0, 0x21, checksum, length, length)


def _local(entry: Entry, length: int, offset: int, checksum: int) -> bytes:
    begin = offset + 30 + len(entry.name) + 4
    padding = -begin % _ALIGNMENT
    extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    lengths = struct.pack("<HH", len(entry.name), len(extra))
    return b"PK\x03\x04" + _fields(entry, length, checksum) + lengths + entry.name + extra


def _central(entry: Entry, length: int, offset: int, checksum: int) -> bytes:
    rest = struct.pack("<HHHHHII", len(entry.name), 0, 0, 0, 0, 0, offset)
    made_by = b"PK\x01\x02" + struct.pack("<H", 20)
    return made_by + _fields(entry, length, checksum) + rest + entry.name
