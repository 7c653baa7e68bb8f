"""Zip archives as torch and numpy write them: entries read on demand, within limits.

The standard library finds the entries; everything that it trusts is checked again here:
that central directory and local headers agree, that entries do not share bytes, that a
deflated entry is not a bomb, and that the bytes have the checksum that was recorded.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from itertools import pairwise

from adaptrix.convert.limits import check_count, printable
from adaptrix.convert.source import ByteSource
from adaptrix.schema.errors import FormatError, PolicyRefused

MAX_INFLATED_BYTES = 64 << 20
MAX_INFLATION = 100
"""A deflated archive may unpack to 64 MiB, or to 100 times its own length if that is more."""
_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1


class ZipEntry:
    """One stored or deflated file of an archive.

    Its own header stands before its bytes and is compared with the directory when they are
    first read: an archive that is looked at from afar costs its directory, not a request
    per entry.
    """

    def __init__(self, source: ByteSource, entry: zipfile.ZipInfo, limit: int) -> None:
        """Describe ``entry`` of ``source``, whose bytes end at ``limit`` at the latest."""
        self.name = entry.filename
        self.size_bytes = entry.file_size
        self.where = f"{source.name}:{printable(entry.filename[:200])}"
        self._source, self._entry, self._limit = source, entry, limit
        self._start = -1
        self._deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        self._crc = entry.CRC
        self._verified = False

    def read(self) -> bytes | memoryview:
        """Return the whole entry; a stored one is a view of the source.

        Raises:
            FormatError: ``corrupt``: the bytes are not those that were written.
        """
        content = self._compressed(self._entry.compress_size)
        if self._deflated:
            content = self._inflate(content)
        if not self._verified and zlib.crc32(content) != self._crc:
            raise FormatError(
                "the checksum of this entry is wrong",
                where=self.where,
                code="corrupt",
                hint="The file is damaged: fetch it again.",
            )
        self._verified = True
        return content

    def head(self, size: int) -> bytes:
        """Return up to ``size`` first bytes, without the checksum and the rest.

        Raises:
            FormatError: ``corrupt``: they cannot be unpacked.
        """
        content = self._compressed(min(size + 1024, self._entry.compress_size))
        if not self._deflated:
            return bytes(content[:size])
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size)
        except zlib.error as error:
            raise FormatError(
                "the entry cannot be unpacked", where=self.where, code="corrupt"
            ) from error

    def _compressed(self, size: int) -> bytes | memoryview:
        """The first ``size`` bytes as they stand in the archive."""
        if self._start < 0:
            start = _data_start(self._source, self._entry)
            if start + self._entry.compress_size > self._limit:
                raise _bad(self._source, "entries share bytes")
            self._start = start
        return self._source.read(self._start, self._start + size)

    def _inflate(self, compressed: bytes | memoryview) -> bytes:
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = machine.decompress(compressed, self.size_bytes + 1)
        except zlib.error as error:
            raise FormatError(
                "the entry cannot be unpacked", where=self.where, code="corrupt"
            ) from error
        if len(content) != self.size_bytes or not machine.eof:
            raise FormatError(
                "the entry does not unpack to the size it declares",
                where=self.where,
                code="corrupt",
            )
        return content


def open_zip(source: ByteSource) -> dict[str, ZipEntry]:
    """Entries of an archive by name, in its order; folders are left out.

    Raises:
        FormatError: ``bad_zip``, ``truncated``, ``corrupt``, ``too_many_tensors``.
        PolicyRefused: ``limit``: it would unpack to far more than it is long.
    """
    found = _directory(source)
    check_count(len(found), source.name)
    for entry in found:
        _check_entry(source, entry)
    _check_inflation(source, found)
    ends = _ends(source, found)
    entries: dict[str, ZipEntry] = {}
    for entry in found:
        if entry.filename in entries:
            raise _bad(source, f"{printable(entry.filename[:80])!r} stands twice in the archive")
        if not entry.filename.endswith("/"):
            entries[entry.filename] = ZipEntry(source, entry, ends[entry.header_offset])
    return entries


def _ends(source: ByteSource, found: list[zipfile.ZipInfo]) -> dict[int, int]:
    """Where the bytes of the entry that begins at an offset end at the latest."""
    begins = sorted(entry.header_offset for entry in found)
    if len(set(begins)) != len(begins):
        raise _bad(source, "entries share bytes")
    ends = dict(pairwise([*begins, source.size_bytes]))
    if any(_least_end(entry) > ends[entry.header_offset] for entry in found):
        raise _bad(source, "entries share bytes")
    return ends


def _least_end(entry: zipfile.ZipInfo) -> int:
    """Where the entry ends when nothing stands between its header and its bytes."""
    return entry.header_offset + _LOCAL.size + len(entry.filename) + entry.compress_size


def _directory(source: ByteSource) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(_Reader(source)) as archive:
            return archive.infolist()
    except (
        zipfile.BadZipFile, ValueError, LookupError, OSError, OverflowError, struct.error,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise FormatError(
            f"the archive's directory cannot be read: {source.size_bytes} bytes, "
            "and its end is not among them",
            where=source.name,
            code="truncated",
            hint="The file is incomplete: fetch it again.",
        ) from error


def _check_entry(source: ByteSource, entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise _bad(source, "an entry is encrypted or packed with an unknown method")
    if not entry.filename:
        raise _bad(source, "an entry without a name")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise _bad(source, "a stored entry declares two sizes")
    if _least_end(entry) > source.size_bytes:
        raise FormatError(
            f"an entry ends at {_least_end(entry)}, the file has {source.size_bytes} bytes",
            where=source.name,
            code="truncated",
        )


def _data_start(source: ByteSource, entry: zipfile.ZipInfo) -> int:
    begin = entry.header_offset
    end = begin + _LOCAL.size
    header = _LOCAL.unpack(source.read(begin, end))
    signature, method = header[0], header[3]
    name_bytes, extra_bytes = int(header[9]), int(header[10])
    name = bytes(source.read(end, end + name_bytes))
    same_name = name in (
        _encoded(entry.orig_filename, "utf-8"),
        _encoded(entry.orig_filename, "cp437"),
    )
    if signature != b"PK\x03\x04" or method != entry.compress_type or not same_name:
        raise _bad(source, "an entry and the directory disagree")
    return end + name_bytes + extra_bytes


def _encoded(name: str, encoding: str) -> bytes:
    return name.encode(encoding, "replace")


def _check_inflation(source: ByteSource, entries: list[zipfile.ZipInfo]) -> None:
    inflated = sum(e.file_size for e in entries if e.compress_type == zipfile.ZIP_DEFLATED)
    limit = max(MAX_INFLATED_BYTES, MAX_INFLATION * source.size_bytes)
    if inflated > limit:
        raise PolicyRefused(
            f"unpacks to {inflated} bytes, at most {limit}", where=source.name, code="limit"
        )


def _bad(source: ByteSource, message: str) -> FormatError:
    return FormatError(message, where=source.name, code="bad_zip")


class _Reader(io.RawIOBase):
    """What ``zipfile`` wants: a source as a seekable file."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base: dict[int, int] = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._source.size_bytes,
        }
        position = base[whence] + offset
        if position < 0:
            raise OSError("seek before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = min(self._position, self._source.size_bytes)
        left = self._source.size_bytes - start
        stop = start + (left if size < 0 else min(size, left))
        self._position = stop
        return bytes(self._source.read(start, stop))
