"""What the operating system says, as our errors: one line, the place, what to do next."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from adaptrix.schema.errors import AccessDenied, AdaptrixError, PolicyRefused, StoreError

LITTLE_BYTES = 128 << 10
"""Free bytes with which the index can no longer be written."""
_GC_HELPS = " (adaptrix gc may help)"


class DiskFull(StoreError):
    """No room, or no quota, for what was to be written. Nothing of it is kept.

    Attributes:
        needed_bytes: Bytes that were to be written, None when unknown.
        free_bytes: Bytes that the file system had left, None when unknown.
    """

    code = "disk_full"

    def __init__(self, *, where: str, needed_bytes: int | None, free_bytes: int | None) -> None:
        needed = "more space" if needed_bytes is None else f"{needed_bytes} bytes"
        # Forgetting takes some room itself: on a disk without any, gc cannot begin.
        more = "" if free_bytes is not None and free_bytes < LITTLE_BYTES else _GC_HELPS
        free = "" if free_bytes is None else f", {free_bytes} bytes are free"
        super().__init__(
            f"disk full: {needed} needed{free}",
            where=where,
            hint=f"Free some space{more}, or set ADAPTRIX_HOME to another disk.",
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class StoreReadOnly(AccessDenied):
    """The home cannot be written: a read-only file system, or missing permission."""

    code = "read_only"

    def __init__(self, *, where: str, reason: str = "read-only") -> None:
        super().__init__(
            f"cannot be written: {reason}",
            where=where,
            hint="Reading works; to write, change the permissions or set ADAPTRIX_HOME.",
        )


class StoreBusy(StoreError):
    """Another process holds the store for longer than we wait."""

    code = "store_busy"
    temporary: ClassVar[bool] = True


class PlantedLink(PolicyRefused):
    """A symbolic link, or another thing that is no file, where the store keeps its own."""

    code = "planted_link"

    def __init__(self, *, where: str, found: str = "a symbolic link") -> None:
        super().__init__(
            f"expected a plain file or folder of the store, found {found}",
            where=where,
            hint="Look at who put it there, remove it, then run adaptrix fsck.",
        )


def free_bytes(path: Path) -> int | None:
    """Bytes an ordinary user may still write on ``path``'s file system; None if unknown."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def translate(error: OSError, *, where: Path, needed_bytes: int | None = None) -> AdaptrixError:
    """Our error for ``error``, which happened while writing or reading at ``where``."""
    place = str(where)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        folder = where if where.is_dir() else where.parent
        return DiskFull(where=place, needed_bytes=needed_bytes, free_bytes=free_bytes(folder))
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return StoreReadOnly(where=place, reason=_reason(error))
    if error.errno == errno.ELOOP:
        return PlantedLink(where=place)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return StoreError(
            _reason(error),
            where=place,
            hint="Raise the limit (ulimit -n) or run fewer commands at once.",
            code="too_many_files",
        )
    return StoreError(_reason(error), where=place, code="io_error")


@contextmanager
def translated(where: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn an ``OSError`` of the block into our error.

    Raises:
        AdaptrixError: what :func:`translate` makes of it.
    """
    try:
        yield
    except OSError as error:
        raise translate(error, where=where, needed_bytes=needed_bytes) from error


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
