"""Blobs as files: ``blobs/sha256/<64 hex>``, mode 0444, on one file system with ``tmp/``.

A writer fills a file of its own in ``tmp/``, hashing on the way; then, in this order:
size and digest are checked, the file is synced, renamed into place, and the folder is
synced. So a blob is either absent or whole, whatever is killed or unplugged, and no lock
is needed for that. A blob that is there already is kept and its time of last use renewed,
which is what ``gc`` goes by. The layout on disk is stable.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from adaptrix.schema.digest import Digest
from adaptrix.store.faults import PlantedLink, translate, translated
from adaptrix.store.locks import try_lock
from adaptrix.store.verifier import Chunk, DigestMismatch, MissingBlob, Verifier, as_bytes_view
from adaptrix.store.writer import DiskWriter, sync_folder

_READ_BYTES = 1 << 20
STALE_TEMPORARY_S = 24 * 3600.0
STALE_PARTIAL_S = 7 * 24 * 3600.0
PARTIAL_PREFIX = "partial-"


class DiskStore:
    """Blobs in a folder.

    Attributes:
        root: The home: holds ``blobs/`` and ``tmp/``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "blobs" / "sha256"
        self.temporary = root / "tmp"

    def has(self, digest: Digest) -> bool:
        """See :meth:`BlobStore.has`."""
        return self.status(digest) is not None

    def size(self, digest: Digest) -> int:
        """See :meth:`BlobStore.size`."""
        found = self.status(digest)
        if found is None:
            raise MissingBlob(digest)
        return found.st_size

    def path(self, digest: Digest) -> Path | None:
        """See :meth:`BlobStore.path`."""
        return self.place(digest) if self.has(digest) else None

    def read(self, digest: Digest) -> bytes:
        """See :meth:`BlobStore.read`."""
        with self.open(digest) as stream, translated(self.place(digest)):
            data = stream.read()
        actual = Digest.of(data)
        if actual != digest:
            raise DigestMismatch(
                expected=digest, actual=actual, size_bytes=len(data), where=f"blob {digest}"
            )
        return data

    def open(self, digest: Digest) -> BinaryIO:
        """See :meth:`BlobStore.open`.

        Raises:
            MissingBlob: no such blob.
            PlantedLink: something that is no plain file lies there.
        """
        place = self.place(digest)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise MissingBlob(digest) from None
        except OSError as error:
            raise translate(error, where=place) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PlantedLink(where=str(place), found="no plain file")
        return os.fdopen(descriptor, "rb")

    def rehash(self, digest: Digest, on_bytes: Callable[[int], None] | None = None) -> Digest:
        """The digest that the bytes of a blob have now; ``digest``, unless they were damaged.

        Args:
            digest: The blob.
            on_bytes: Told of each piece.

        Raises:
            MissingBlob: no such blob.
            StoreError: it cannot be read.
        """
        with self.open(digest) as stream, translated(self.place(digest)):
            running = hashlib.sha256()
            while block := stream.read(_READ_BYTES):
                running.update(block)
                if on_bytes is not None:
                    on_bytes(len(block))
        return Digest(running.hexdigest())

    def put(self, data: Chunk, media_type: str = "") -> Digest:
        """See :meth:`BlobStore.put`."""
        view = as_bytes_view(data)
        verifier = Verifier(None, view.nbytes)
        verifier.update(view)
        digest = verifier.finish()
        if self.freshen(digest, view.nbytes):
            with translated(self.folder):
                # Its writer may not have come to this yet, and we are about to rely on it.
                sync_folder(self.folder)
            return digest
        with self.writer(media_type=media_type, expected_size=view.nbytes) as sink:
            sink.write(view)
        return digest

    def put_record(self, data: bytes) -> Digest:
        """Store a reference record: the one kind of blob that only the store may write."""
        with DiskWriter(self, Verifier(None, len(data)), own_record=True) as sink:
            sink.write(data)
        return sink.descriptor.digest

    def writer(
        self,
        *,
        expected_digest: Digest | None = None,
        expected_size: int | None = None,
        partial: str | None = None,
        media_type: str = "",
    ) -> DiskWriter:
        """See :meth:`BlobStore.writer`."""
        verifier = Verifier(expected_digest, expected_size)
        return DiskWriter(self, verifier, partial=partial, media_type=media_type)

    def digests(self) -> Iterator[Digest]:
        """See :meth:`BlobStore.digests`. Foreign names are left to ``fsck``."""
        return iter(sorted(digest for digest in map(_digest_of_name, self.names()) if digest))

    def names(self) -> list[str]:
        """Names of everything in the blob folder, sorted."""
        with translated(self.folder):
            try:
                return sorted(entry.name for entry in self.folder.iterdir())
            except FileNotFoundError:
                return []

    def place(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.folder / digest.hex

    def status(self, digest: Digest) -> os.stat_result | None:
        """Status of the blob's file; None when it is not there.

        Raises:
            PlantedLink: something that is no plain file lies there.
        """
        place = self.place(digest)
        with translated(place):
            try:
                found = place.lstat()
            except FileNotFoundError:
                return None
        if not stat.S_ISREG(found.st_mode):
            raise PlantedLink(where=str(place), found=_kind(found.st_mode))
        return found

    def freshen(self, digest: Digest, size_bytes: int) -> bool:
        """Renew the time of last use; False when the blob must be written (again).

        Setting the time is the test for existence: one that succeeds is seen by a ``gc``
        that takes the file away afterwards, one that fails came too late.
        """
        found = self.status(digest)
        if found is None or found.st_size != size_bytes:
            return False
        try:
            os.utime(self.place(digest), follow_symlinks=False)
        except OSError:
            return False
        return True

    def prepare(self) -> None:
        """Make the folders, or check that they are folders.

        Raises:
            PlantedLink: one of them is a link.
            StoreReadOnly: they cannot be made.
        """
        with translated(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.root / "blobs", self.folder, self.temporary):
            with translated(folder):
                try:
                    mode = folder.lstat().st_mode
                except FileNotFoundError:
                    folder.mkdir(exist_ok=True)
                    sync_folder(folder.parent)
                    mode = folder.lstat().st_mode
            if not stat.S_ISDIR(mode):
                raise PlantedLink(where=str(folder), found=_kind(mode))

    def sweep(self, *, now_s: float | None = None) -> list[Path]:
        """Remove what dead processes left in ``tmp/``; returns what was removed.

        A file that a living process holds stays, however old it is.
        """
        now = time.time() if now_s is None else now_s
        removed: list[Path] = []
        with translated(self.temporary):
            for path in sorted(self.temporary.iterdir()):
                limit = (
                    STALE_PARTIAL_S if path.name.startswith(PARTIAL_PREFIX) else STALE_TEMPORARY_S
                )
                # Others come and go here while we look.
                with suppress(FileNotFoundError):
                    found = path.lstat()
                    if now - found.st_mtime > limit and _remove_unheld(path, found.st_mode):
                        removed.append(path)
        return removed


def _digest_of_name(name: str) -> Digest | None:
    lower_hex = len(name) == 64 and not name.strip("0123456789abcdef")
    return Digest(name) if lower_hex else None


def _kind(mode: int) -> str:
    return "a symbolic link" if stat.S_ISLNK(mode) else "something else"


def _remove_unheld(path: Path, mode: int) -> bool:
    if stat.S_ISDIR(mode):
        return False
    if not stat.S_ISREG(mode):
        path.unlink()
        return True
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not try_lock(descriptor):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)
