"""Byte sources: random access to the files of an adapter, wherever they are.

A reader asks for ranges of bytes and never for a path, so the same code reads a file on
this disk (mapped, so that a 42 MB file costs no copy, and let go again, so that a file of 2 GB
costs no memory), bytes in memory, or a remote file through ranged requests. Folders are listed without following links that leave them and
without opening anything but regular files. Stable.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptrix.convert.limits import printable
from adaptrix.schema.errors import AccessDenied, FormatError, NotFound, PolicyRefused

MAX_FILES = 10_000
MAX_LEVELS = 2
"""Levels of subfolders that are looked into."""
RESIDENT_BYTES = 16 << 20
"""Bytes of a mapped file that are used before its pages are let go."""


class ByteSource(Protocol):
    """Random access to the bytes of one file."""

    @property
    def name(self) -> str:
        """Relative posix name of the file."""

    @property
    def size_bytes(self) -> int:
        """Length of the file."""

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Return the bytes ``[start, stop)``.

        Raises:
            FormatError: the range is not inside the file, or it cannot be read.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """The files in which to look for an adapter.

    Attributes:
        location: Where they are, as the user wrote it.
        files: Sources by relative posix name.
        folders: Where these files hold no adapter: folders beside them that each hold one.
    """

    location: str
    files: Mapping[str, ByteSource]
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemorySource:
    """Bytes in memory under a name."""

    name: str
    content: bytes | memoryview

    @property
    def size_bytes(self) -> int:
        """Length of the content."""
        return len(self.content)

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``[start, stop)`` without a copy.

        Raises:
            FormatError: the range is not inside the content.
        """
        check_range(self.name, self.size_bytes, start, stop)
        return memoryview(self.content)[start:stop]


class FileSource:
    """A regular file, mapped when its bytes are first wanted.

    Mapping late keeps a folder of thousands of files from holding as many descriptors.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Remember ``path`` as it is now; nothing is opened.

        Raises:
            NotFound: there is no such file.
            PolicyRefused: it is a link, a FIFO, a device or a socket.
        """
        self._path = path
        self._name = path.name if name is None else name
        self._seen = _lstat(path)
        _require_regular(self._seen, str(path))
        self._view: memoryview | None = None
        self._used_bytes = 0

    @property
    def name(self) -> str:
        """Relative posix name of the file."""
        return self._name

    @property
    def size_bytes(self) -> int:
        """Length when the file was listed."""
        return self._seen.st_size

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``[start, stop)`` as a view of the mapping.

        Raises:
            FormatError: the range is not inside the file, or the file has changed.
            AccessDenied: it may not be read.
        """
        check_range(self._name, self.size_bytes, start, stop)
        if self._view is None:
            self._view = self._map()
        self._used_bytes += stop - start
        if self._used_bytes > RESIDENT_BYTES:
            let_go(self._view)
            self._used_bytes = stop - start
        return self._view[start:stop]

    def _map(self) -> memoryview:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags)
        except PermissionError as error:
            raise AccessDenied("the file may not be read", where=self._name) from error
        except OSError as error:
            raise FormatError(_reason(error), where=self._name, code="unreadable") from error
        try:
            now = os.fstat(descriptor)
            # The name may point to another file by now: what was checked is what is read.
            if _identity(now) != _identity(self._seen):
                raise FormatError("the file changed while it was read", where=self._name)
            if now.st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(descriptor, now.st_size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise FormatError(_reason(error), where=self._name, code="unreadable") from error
        finally:
            os.close(descriptor)


def let_go(view: bytes | memoryview) -> None:
    """Give the pages under a view of a mapped file back; they are read again when wanted.

    Without it a process grows by every file that it reads from front to back.
    """
    mapping = view.obj if isinstance(view, memoryview) else None
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def check_range(name: str, size_bytes: int, start: int, stop: int) -> None:
    """Refuse a range that is not inside a file of ``size_bytes``.

    Raises:
        FormatError: ``truncated``.
    """
    if not 0 <= start <= stop <= size_bytes:
        raise FormatError(
            f"bytes {start}..{stop} are wanted, the file has {size_bytes}",
            where=name,
            code="truncated",
            hint="The file is incomplete: fetch it again.",
        )


_WITH_SETTINGS = {".safetensors", ".bin", ".pt", ".pth", ".npz", ".ckpt", ".lora"}
_SETTINGS = ("adapter_config.json", "hyperparameters.yaml", "torchtune_config.yaml")


def open_path(path: Path) -> AdapterFiles:
    """List the regular files of a folder, or take one file and the settings beside it.

    Hidden files are skipped, subfolders are looked into to a depth of two. Links are
    followed only inside the folder (and, for a snapshot in the Hugging Face cache, into
    that repository's ``blobs`` folder beside it).

    Raises:
        NotFound: there is nothing at ``path``.
        PolicyRefused: a link leaves the folder, or something is neither file nor folder.
        AccessDenied: a folder may not be listed.
        FormatError: a file name cannot be printed.
    """
    try:
        root = path.expanduser().resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("no such file or folder", where=printable(str(path))) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(
            "this path cannot be followed", where=printable(str(path)), code="unreadable"
        ) from error
    if not root.is_dir():
        source = FileSource(root, _checked_name(path.name or root.name))
        found: dict[str, ByteSource] = {source.name: source}
        if root.suffix.lower() in _WITH_SETTINGS:
            found |= _settings_beside(path.expanduser(), root)
        return AdapterFiles(location=str(path), files=dict(sorted(found.items())))
    files: dict[str, ByteSource] = {}
    for source in _walk(root, root, 0):
        files[source.name] = source
        if len(files) > MAX_FILES:
            raise PolicyRefused(
                f"more than {MAX_FILES} files", where=str(path), hint="Name the adapter's folder."
            )
    return AdapterFiles(location=str(path), files=dict(sorted(files.items())))


def _settings_beside(path: Path, root: Path) -> dict[str, ByteSource]:
    """Alpha and the base stand in a file of their own; links as :func:`open_path` follows them."""
    found: dict[str, ByteSource] = {}
    for name in _SETTINGS:
        place = path.with_name(name)
        if name != path.name and place.is_file() and place.resolve().parent == root.parent:
            found[name] = FileSource(place.resolve(), name)
    return found


def _walk(root: Path, folder: Path, level: int) -> Iterator[FileSource]:
    try:
        entries = sorted(folder.iterdir())
    except PermissionError as error:
        raise AccessDenied("the folder may not be listed", where=str(folder)) from error
    except OSError as error:
        raise FormatError(_reason(error), where=str(folder), code="unreadable") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = _checked_name(entry.relative_to(root).as_posix())
        mode = _lstat(entry).st_mode
        if stat.S_ISDIR(mode):
            if level < MAX_LEVELS:
                yield from _walk(root, entry, level + 1)
        elif not stat.S_ISLNK(mode):
            yield FileSource(entry, name)
        elif not (target := _inside(root, entry)).is_dir():
            yield FileSource(target, name)


def _inside(root: Path, link: Path) -> Path:
    name = link.relative_to(root).as_posix()
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise PolicyRefused("a link that leads nowhere", where=name, code="bad_link") from error
    allowed = [root]
    # <cache>/models--org--repo/snapshots/<commit> holds links to ../../blobs only.
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise PolicyRefused(
            "a link that leaves the folder is not followed",
            where=name,
            code="bad_link",
            hint="Replace the link by a copy of the file it points to.",
        )
    return target


def _lstat(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except FileNotFoundError as error:
        raise NotFound("no such file", where=printable(str(path))) from error
    except OSError as error:
        raise AccessDenied(_reason(error), where=printable(str(path))) from error


def _require_regular(status: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PolicyRefused(
            "not a regular file; it was not opened", where=printable(where), code="not_a_file"
        )


def _checked_name(name: str) -> str:
    if printable(name) != name:
        raise FormatError("a file name that cannot be printed", where=printable(name))
    return name


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


def _reason(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()
