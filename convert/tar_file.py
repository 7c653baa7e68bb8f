"""A tar archive as files: members are ranges of its bytes, nothing is unpacked.

NeMo 1.x packs its configuration and weights so (``.nemo``). Links, devices and names that
leave the archive are refused. Format: POSIX.1-1988 ustar, with GNU's and pax's long names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adaptrix.convert.limits import printable
from adaptrix.convert.source import MAX_FILES, ByteSource, check_range
from adaptrix.schema.errors import FormatError, PolicyRefused

BLOCK = 512
_MAX_NAME_BYTES = 4096
_OLD_TORCH = {"pickle", "storages", "sys_info", "tensors"}


@dataclass(frozen=True, slots=True)
class MemberSource:
    """A file inside another."""

    name: str
    archive: ByteSource
    start: int
    size_bytes: int

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Return the bytes ``[start, stop)``.

        Raises:
            FormatError: the range is not inside the member.
        """
        check_range(self.name, self.size_bytes, start, stop)
        return self.archive.read(self.start + start, self.start + stop)


def is_tar(source: ByteSource) -> bool:
    """Whether it is an uncompressed tar archive."""
    return source.size_bytes >= BLOCK and bytes(source.read(257, 262)) == b"ustar"


def tar_members(source: ByteSource) -> dict[str, ByteSource]:
    """Regular files by name.

    Raises:
        FormatError: ``truncated``, ``corrupt``.
        PolicyRefused: ``unsafe_file``: a link, a device, or a name that leads out of it.
    """
    found: dict[str, ByteSource] = {}
    for name, start, size in _members(source):
        parts = name.removeprefix("./").split("/")
        plain = printable(name) == name and not name.startswith("/") and ".." not in parts
        if not plain:
            raise _unsafe(source, f"a member named {printable(name[:80])!r}")
        path = "/".join(part for part in parts if part not in {"", "."})
        if path in found:
            raise FormatError("two members of one name", where=f"{source.name}:{path}")
        found[path] = MemberSource(path, source, start, size)
        if len(found) > MAX_FILES:
            raise _unsafe(source, f"more than {MAX_FILES} members")
    if set(found) >= _OLD_TORCH:
        raise _unsafe(source, "torch's archive of before 0.1.10")
    return found


def _members(source: ByteSource) -> Iterator[tuple[str, int, int]]:
    """``(name, start, size)`` of each regular file."""
    at, long_name = 0, ""
    while at + BLOCK <= source.size_bytes:
        header = bytes(source.read(at, at + BLOCK))
        if not any(header):
            return
        _check_sum(header, source)
        size, kind = _number(header[124:136], source), header[156:157]
        start = at + BLOCK
        if start + size > source.size_bytes:
            message = f"a member of {size} bytes at {start}, the file has {source.size_bytes}"
            raise FormatError(message, where=source.name, code="truncated")
        at = start + -(-size // BLOCK) * BLOCK
        if kind in (b"L", b"x", b"g"):
            if size > _MAX_NAME_BYTES:
                raise _unsafe(source, "an extended header that long")
            body = bytes(source.read(start, start + size))
            long_name = _text(body) if kind == b"L" else _pax_path(body) or long_name
        elif kind in (b"0", b"\0", b"7"):
            yield long_name or _name(header), start, size
            long_name = ""
        elif kind == b"5":
            long_name = ""
        else:
            raise _unsafe(source, f"a link or device {printable(_name(header)[:80])!r}")


def _name(header: bytes) -> str:
    prefix, name = _text(header[345:500]), _text(header[:100])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _pax_path(body: bytes) -> str:
    for line in body.decode("utf-8", "backslashreplace").splitlines():
        _, _, record = line.partition(" ")
        if record.startswith("path="):
            return record.removeprefix("path=")
    return ""


def _number(field: bytes, source: ByteSource) -> int:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError as error:
        raise FormatError("a size that is no number", where=source.name, code="corrupt") from error


def _check_sum(header: bytes, source: ByteSource) -> None:
    wanted = _number(header[148:156], source)
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != wanted:
        raise FormatError("a header whose sum is wrong", where=source.name, code="corrupt")


def _unsafe(source: ByteSource, what: str) -> PolicyRefused:
    return PolicyRefused(
        f"a tar archive with {what}",
        where=source.name,
        code="unsafe_file",
        hint="Extract it, or save the adapter again as safetensors.",
    )
