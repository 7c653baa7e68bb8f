"""The way into a :class:`~adaptrix.store.disk.DiskStore`: see the order given there."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import secrets
import stat
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AccessDenied, AdaptrixError, StoreError
from adaptrix.store.faults import DiskFull, PlantedLink, free_bytes, translate, translated
from adaptrix.store.locks import try_lock
from adaptrix.store.verifier import (
    Chunk,
    DigestMismatch,
    Verifier,
    as_bytes_view,
    published,
    resumable,
)

if TYPE_CHECKING:
    from adaptrix.store.disk import DiskStore

BLOB_MODE = 0o444
_READ_BYTES = 1 << 20
_PARTIAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", re.ASCII)
_counter = itertools.count()


class DiskWriter:
    """Writer of :class:`~adaptrix.store.disk.DiskStore`; for one ``with`` block, one thread."""

    def __init__(
        self,
        store: DiskStore,
        verifier: Verifier,
        *,
        partial: str | None = None,
        media_type: str = "",
        own_record: bool = False,
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._partial = partial
        self._media_type = media_type
        self._own_record = own_record
        self._path = store.temporary
        self._file = -1
        self._resumable = False
        self._descriptor: Descriptor | None = None

    @property
    def offset(self) -> int:
        """See :attr:`BlobWriter.offset`."""
        return self._verifier.count

    @property
    def descriptor(self) -> Descriptor:
        """See :attr:`BlobWriter.descriptor`."""
        return published(self._descriptor)

    def __enter__(self) -> Self:
        self._store.prepare()
        try:
            with translated(self._store.temporary, needed_bytes=self._verifier.expected_size):
                if self._partial is None or not self._resume(self._partial):
                    self._begin()
            self._check_room()
        except BaseException:
            self._close(keep=self._resumable and self.offset > 0)
            raise
        return self

    def write(self, chunk: Chunk, /) -> int:
        """See :meth:`BlobWriter.write`."""
        view = as_bytes_view(chunk)
        self._verifier.update(view)
        done = 0
        try:
            while done < view.nbytes:
                done += os.write(self._file, view[done:])
        except OSError as error:
            raise self._translate(error) from error
        return view.nbytes

    def restart(self) -> None:
        """See :meth:`BlobWriter.restart`."""
        self._verifier.restart()
        try:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
        except OSError as error:
            raise self._translate(error) from error

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._close(keep=self._worth_keeping(error))
            return
        try:
            self._commit()
        except BaseException as failure:
            self._close(keep=self._worth_keeping(failure))
            raise
        self._close(keep=True)

    def _begin(self) -> None:
        """Open a file that no other process or thread has."""
        name = (
            f"write-{os.getpid()}-{threading.get_ident()}-{next(_counter)}-{secrets.token_hex(4)}"
        )
        self._path = self._store.temporary / name
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        # Held so that a sweep by another process leaves it alone, however slow we are.
        try_lock(self._file)

    def _resume(self, partial: str) -> bool:
        """Continue an earlier attempt; False when another process is at it right now."""
        self._path = self._store.temporary / f"partial-{_partial_name(partial)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._file, self._resumable = os.open(self._path, flags, 0o600), True
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            raise PlantedLink(where=str(self._path), found="no plain file")
        if not try_lock(self._file) or not _same_file(self._path, found):
            # Whoever holds it may publish it at any moment: never write to it.
            os.close(self._file)
            self._file, self._resumable = -1, False
            return False
        self._rehash(found.st_size)
        return True

    def _rehash(self, size_bytes: int) -> None:
        expected = self._verifier.expected_size
        if expected is not None and size_bytes > expected:
            os.ftruncate(self._file, 0)
            return
        while block := os.read(self._file, _READ_BYTES):
            self._verifier.update(memoryview(block))

    def _check_room(self) -> None:
        """Say that the disk is too small before the bytes are fetched."""
        expected, free = self._verifier.expected_size, free_bytes(self._store.temporary)
        if expected is not None and free is not None and expected - self.offset > free:
            raise DiskFull(where=str(self._store.root), needed_bytes=expected, free_bytes=free)

    def _commit(self) -> None:
        digest = self._verifier.finish(own_record=self._own_record)
        size_bytes = self._verifier.count
        try:
            if self._resumable:
                self._check_on_disk(digest)
            os.fchmod(self._file, BLOB_MODE)
            os.fsync(self._file)
            self._publish(digest, size_bytes)
        except OSError as error:
            raise self._translate(error) from error
        self._descriptor = Descriptor(
            media_type=self._media_type, digest=digest, size_bytes=size_bytes
        )

    def _publish(self, digest: Digest, size_bytes: int) -> None:
        # A blob of another size under this name is damaged: the rename heals it.
        if self._store.freshen(digest, size_bytes):
            self._path.unlink(missing_ok=True)
        else:
            self._path.rename(self._store.place(digest))
        sync_folder(self._store.folder)

    def _check_on_disk(self, expected: Digest) -> None:
        """Hash a shared part file once more, for file systems whose locks do not hold."""
        os.lseek(self._file, 0, os.SEEK_SET)
        running = hashlib.sha256()
        while block := os.read(self._file, _READ_BYTES):
            running.update(block)
        actual = Digest(running.hexdigest())
        if actual != expected:
            size_bytes = os.fstat(self._file).st_size
            raise DigestMismatch(
                expected=expected, actual=actual, size_bytes=size_bytes, where=str(self._path)
            )

    def _worth_keeping(self, error: BaseException) -> bool:
        # After a full disk everything else needs the room more; after a failed sync the
        # pages read back fine and may still never have reached the disk.
        failed = isinstance(error, StoreError | AccessDenied)
        return self._resumable and self.offset > 0 and resumable(error) and not failed

    def _close(self, *, keep: bool) -> None:
        if self._file < 0:
            return
        with suppress(OSError):
            if not keep:
                self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def _translate(self, error: OSError) -> AdaptrixError:
        expected = self._verifier.expected_size
        needed = expected if expected is not None else self.offset
        return translate(error, where=self._store.root, needed_bytes=needed)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut.

    Raises:
        OSError: the disk said no.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial_name(key: str) -> str:
    if _PARTIAL_NAME.fullmatch(key):
        return key
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _same_file(path: Path, found: os.stat_result) -> bool:
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)
