"""What every remote looks like from here: files with sizes and digests, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from adaptrix.schema.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file as the remote announces it.

    Attributes:
        path: Relative posix path.
        size_bytes: Announced size.
        sha256: Announced digest of the content (large files).
        git_oid: Announced git blob id, SHA-1 of ``blob <size>``, a NUL and the content.
    """

    path: str
    size_bytes: int
    sha256: Digest | None = None
    git_oid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One commit of a repository.

    Attributes:
        repository: ``org/repo``.
        commit: 40 lower-case hexadecimal digits.
        files: Its files, sorted by path; of a folder, those in it.
        folder: The folder that was asked for, ``""`` for all.
    """

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    folder: str = ""


class Remote(Protocol):
    """A place that serves snapshots."""

    def snapshot(self) -> Snapshot:
        """The commit that the source names, with its files.

        Raises:
            NotFound, AccessDenied, RemoteError: it cannot be had.
        """

    def stream(self, snapshot: Snapshot, file: RemoteFile, *, offset: int = 0) -> Iterator[bytes]:
        """One attempt at the bytes of ``file`` from ``offset`` on, in order.

        Raises:
            Restart: the server sends the file from its beginning, or it has changed.
            AdaptrixError: as it went wrong; ``temporary`` says whether to try again.
        """

    def read_range(self, snapshot: Snapshot, file: RemoteFile, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)`` of ``file``."""


class Sink(Protocol):
    """Where fetched bytes go: the store's writer."""

    @property
    def offset(self) -> int:
        """Bytes that are there already."""

    def write(self, chunk: bytes, /) -> int:
        """Take the next bytes."""

    def restart(self) -> None:
        """Forget the bytes that are there."""


class Progress(Protocol):
    """Told of bytes as they come."""

    def start(self, path: str, total: int, offset: int) -> None:
        """A file begins."""

    def advance(self, count: int) -> None:
        """So many more bytes have come."""

    def finish(self) -> None:
        """The file is complete."""


class Silent:
    """Progress that nobody watches."""

    def start(self, path: str, total: int, offset: int) -> None:
        """See :class:`Progress`."""

    def advance(self, count: int) -> None:
        """See :class:`Progress`."""

    def finish(self) -> None:
        """See :class:`Progress`."""
