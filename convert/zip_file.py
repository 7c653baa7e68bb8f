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
from functools import partial
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
    """One stored or deflated file of an archive."""

    def __init__(self, source: ByteSource, entry: zipfile.ZipInfo, start: int) -> None:
        """Describe the entry whose compressed bytes begin at ``start`` of ``source``."""
        self.name = entry.filename
        self.size_bytes = entry.file_size
        self.where = f"{source.name}:{printable(entry.filename[:200])}"
        self._compressed = partial(source.read, start, start + entry.compress_size)
        self._deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        self._crc = entry.CRC
        self._verified = False

    def read(self) -> bytes | memoryview:
        """Return the whole entry; a stored one is a view of the source.

        Raises:
            FormatError: ``corrupt``: the bytes are not those that were written.
        """
        content = self._compressed()
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
        content = self._compressed()[: size + 1024]
        if not self._deflated:
            return bytes(content[:size])
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size)
        except zlib.error as error:
            raise FormatError(
                "the entry cannot be unpacked", where=self.where, code="corrupt"
            ) from error

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
    entries: dict[str, ZipEntry] = {}
    spans: list[tuple[int, int]] = []
    for entry in found:
        if entry.filename.endswith("/"):
            continue
        if entry.filename in entries:
            raise _bad(source, f"{printable(entry.filename[:80])!r} stands twice in the archive")
        start = _data_start(source, entry)
        spans.append((entry.header_offset, start + entry.compress_size))
        entries[entry.filename] = ZipEntry(source, entry, start)
    spans.sort()
    if any(begin < end for (_, end), (begin, _) in pairwise(spans)):
        raise _bad(source, "entries share bytes")
    _check_inflation(source, found)
    return entries


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


def _data_start(source: ByteSource, entry: zipfile.ZipInfo) -> int:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise _bad(source, "an entry is encrypted or packed with an unknown method")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise _bad(source, "a stored entry declares two sizes")
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
    start = end + name_bytes + extra_bytes
    if start + entry.compress_size > source.size_bytes:
        raise FormatError(
            f"an entry ends at {start + entry.compress_size}, the file has {source.size_bytes} bytes",
            where=source.name,
            code="truncated",
        )
    return start


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
