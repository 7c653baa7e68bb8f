"""A home: blobs, names and index in one folder (``ADAPTRIX_HOME``).

    oci-layout, index.json      the folder is an OCI image layout
    blobs/sha256/<64 hex>       every byte, mode 0444
    tmp/                        attempts; quarantine/: damaged blobs that fsck moved aside
    adaptrix.sqlite3            the index, rebuilt from the blobs whenever it is lost
    lock                        held shared by writers, exclusively by gc

Opening a home imports no SQL toolkit; the first question to the index does. Stable.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from adaptrix.schema import media_types
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    FormatError,
    InvalidReference,
    NotFound,
    StoreError,
    UsageError,
)
from adaptrix.schema.manifest import Manifest
from adaptrix.store.disk import DiskStore
from adaptrix.store.entries import LineageEdge, Listing, VersionEntry
from adaptrix.store.faults import StoreReadOnly, translated
from adaptrix.store.fsck import FsckReport, Progress, check
from adaptrix.store.gc import GRACE_S, REFLOG_S, GcReport, collect
from adaptrix.store.layout import ensure_layout
from adaptrix.store.listing import page, target
from adaptrix.store.locks import locked
from adaptrix.store.rebuild import ReindexReport, fill, read_version, scan
from adaptrix.store.references import Clock, References
from adaptrix.store.usage import Usage, measure

if TYPE_CHECKING:
    from adaptrix.store.index import Index
    from adaptrix.store.opening import IndexFile

INDEX_FILE = "adaptrix.sqlite3"
LOCK_FILE = "lock"
QUARANTINE = "quarantine"
MIN_PREFIX = 7
_LOGGER = logging.getLogger(__name__)
_OWN_NAMES = {"oci-layout", "index.json", "blobs", "tmp", INDEX_FILE, LOCK_FILE, QUARANTINE}


class AmbiguousDigest(UsageError):
    """A digest prefix that fits several versions.

    Attributes:
        candidates: Some of them.
    """

    code = "ambiguous_digest"

    def __init__(self, prefix: str, candidates: tuple[Digest, ...]) -> None:
        listed = ", ".join(digest.short for digest in candidates)
        super().__init__(f"fits {listed}", where=prefix, hint="Give more digits.")
        self.candidates = candidates


class Home:
    """One home. Use :meth:`open`; close it, or use it as a context manager.

    Attributes:
        path: The folder.
        blobs: Its blobs.
        references: Its names.
        read_only: Whether it cannot be written; reading works then all the same.
        notices: What had to be put right while opening, for people.
    """

    def __init__(self, path: Path, *, read_only: bool, clock: Clock) -> None:
        self.path = path
        self.blobs = DiskStore(path)
        self.read_only = read_only
        self.notices: list[str] = []
        self.references = References(path, self.blobs, lambda: self.index, clock)
        self._opened: Index | None = None

    @classmethod
    def open(cls, path: Path, *, create: bool = True, clock: Clock | None = None) -> Home:
        """Open the home at ``path``.

        Args:
            path: The folder.
            create: Make it when there is none.
            clock: What time it is, for the reflog.

        Raises:
            NotFound: there is none, and ``create`` is False.
            UsageError: the folder holds something else.
            StoreReadOnly: there is none, and it cannot be made.
            PlantedLink: a part of it is a link.
        """
        with translated(path):
            _check_folder(path, create=create)
        read_only = path.is_dir() and not os.access(path, os.W_OK)
        home = cls(path, read_only=read_only, clock=clock or _utc_now)
        if not read_only:
            home.blobs.prepare()
            ensure_layout(path)
            home.blobs.sweep()
        elif not home.blobs.folder.is_dir():
            raise StoreReadOnly(where=str(path))
        return home

    @property
    def index(self) -> Index:
        """The index, opened on first use; made again from the blobs when it is lost."""
        if self._opened is None:
            from adaptrix.store.index import Index  # noqa: PLC0415 - 0.25 s of imports

            database = self._index_file().open(read_only=self.read_only)
            self._opened = Index(database)
            if not database.read_only:
                self.references.settle()
        return self._opened

    def adapters(
        self, pattern: str | None = None, *, limit: int = 0, after: str = ""
    ) -> tuple[Listing, ...]:
        """Names with their versions, sorted; see :meth:`Index.adapters`."""
        if self._opened is None:
            found = page(self.path / INDEX_FILE, pattern, limit=limit, after=after)
            if found is not None:
                return found
        return self.index.adapters(pattern, limit=limit, after=after)

    def target(self, name: str, tag: str) -> Digest | None:
        """Where a name points; as :meth:`References.get`, without the SQL toolkit if it can."""
        found = None
        if self._opened is None:
            found = target(self.path / INDEX_FILE, name, tag)
        return self.references.get(name, tag) if found is None else found

    def lease(self, *, timeout_s: float = 60.0) -> AbstractContextManager[None]:
        """Hold off ``gc`` for the block: for what takes long between blobs and name.

        Where nothing can be written, nothing is held: that is for reading and for dry runs.

        Raises:
            StoreBusy: a collection went on for longer than ``timeout_s``.
        """
        if self.read_only:
            return nullcontext()
        return locked(self.path / LOCK_FILE, shared=True, timeout_s=timeout_s)

    def add_version(
        self,
        manifest: Manifest,
        *,
        config_bytes: bytes | None = None,
        manifest_bytes: bytes | None = None,
    ) -> Digest:
        """Store a version whose files are there already.

        Args:
            manifest: The version.
            config_bytes: Its config as it was announced; else as we write it.
            manifest_bytes: Its manifest as it was announced; else as we write it.

        Returns:
            Digest of the manifest.

        Raises:
            MissingBlob: one of its files is not in the store.
            FormatError: the bytes do not say the same as ``manifest``.
            StoreError: it could not be written.
        """
        config = config_bytes if config_bytes is not None else manifest.config_bytes()
        data = manifest_bytes if manifest_bytes is not None else manifest.to_bytes()
        if Manifest.parse(data, config) != manifest:
            raise FormatError("its bytes do not say what it says", where="manifest")
        with self.lease():
            for layer in manifest.layers:
                self._use(layer)
            stored = Descriptor(
                media_type=media_types.CONFIG,
                digest=self.blobs.put(config),
                size_bytes=len(config),
            )
            digest = self.blobs.put(data)
            with self.index.writing() as transaction:
                transaction.add(manifest, digest=digest, manifest_bytes=len(data), config=stored)
        return digest

    def manifest(self, digest: Digest) -> Manifest:
        """The version with this manifest digest, read from the blobs and verified.

        Raises:
            NotFound: no such blob.
            FormatError: it is no manifest.
            AdaptrixError: it, or its config, is damaged or missing.
        """
        if not self.blobs.has(digest):
            raise NotFound("no such version", where=str(digest), code="unknown_version")
        return read_version(self.blobs, digest).manifest

    def versions(self) -> tuple[VersionEntry, ...]:
        """All versions, oldest first."""
        return self.index.versions()

    def find_by_source(
        self, repository: str, files: Iterable[Digest] | None = None
    ) -> tuple[VersionEntry, ...]:
        """Versions made from these source files (any, when None), oldest first."""
        return self.index.find_by_source(repository, files)

    def find_by_tensors(self, tensors_digest: Digest) -> tuple[VersionEntry, ...]:
        """Versions that hold these tensors, oldest first."""
        return self.index.find_by_tensors(tensors_digest)

    def parents(self, digest: Digest) -> tuple[LineageEdge, ...]:
        """Where a version comes from, in its manifest's order."""
        return self.index.parents(digest)

    def children(self, digest: Digest) -> tuple[LineageEdge, ...]:
        """Versions of this home that descend from it."""
        return self.index.children(digest)

    def find(self, prefix: str) -> Digest:
        """The version whose digest begins with ``prefix`` (7 digits or more).

        Raises:
            InvalidReference: no such prefix is possible.
            NotFound: no version fits.
            AmbiguousDigest: several fit.
        """
        digits = prefix.removeprefix("sha256:")
        if not MIN_PREFIX <= len(digits) <= 64 or digits.strip("0123456789abcdef"):
            message = f"expected {MIN_PREFIX} to 64 lower-case hex digits"
            raise InvalidReference(message, where=repr(prefix[:80]))
        found = self.index.with_prefix(digits)
        if not found:
            raise NotFound("no version with this digest", where=prefix, code="unknown_version")
        if len(found) > 1:
            raise AmbiguousDigest(prefix, found)
        return found[0]

    def reindex(self) -> ReindexReport:
        """Make the index again from the blobs alone, in one transaction.

        Raises:
            StoreReadOnly: the home cannot be written.
            StoreError: it could not be written.
        """
        if self.read_only:
            raise StoreReadOnly(where=str(self.path))
        from adaptrix.store.database import CorruptIndex  # noqa: PLC0415 - see index

        try:
            return self._refill()
        except CorruptIndex as error:
            # Too damaged to be emptied: start with a new file.
            self.close()
            with locked(self.path / f"{INDEX_FILE}.lock"):
                aside = self._index_file().set_aside()
            self._notice(f"{error}; set aside as {aside.name}")
            return self._refill()

    def fsck(
        self,
        *,
        quick: bool = False,
        sample: float = 1.0,
        repair: bool = False,
        progress: Progress | None = None,
    ) -> FsckReport:
        """Check everything; see :func:`adaptrix.store.fsck.check`."""
        return check(self, quick=quick, sample=sample, repair=repair, progress=progress)

    def gc(
        self, *, grace_s: float = GRACE_S, reflog_s: float = REFLOG_S, dry_run: bool = False
    ) -> GcReport:
        """Remove what nothing reaches; see :func:`adaptrix.store.gc.collect`."""
        return collect(self, grace_s=grace_s, reflog_s=reflog_s, dry_run=dry_run)

    def du(self) -> Usage:
        """What takes how much room; see :func:`adaptrix.store.usage.measure`."""
        return measure(self)

    def close(self) -> None:
        """Close the index."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _refill(self) -> ReindexReport:
        with self.index.writing() as transaction:
            transaction.clear()
            report = fill(transaction, scan(self.blobs))
            self.references.relist(transaction)
        return report

    def _use(self, layer: Descriptor) -> None:
        if not self.blobs.freshen(layer.digest, layer.size_bytes):
            size_bytes = self.blobs.size(layer.digest)  # MissingBlob when it is not there
            if size_bytes != layer.size_bytes:
                message = f"expected {layer.size_bytes} bytes, the store has {size_bytes}"
                raise StoreError(message, where=f"blob {layer.digest}", code="corrupt_blob")

    def _index_file(self) -> IndexFile:
        from adaptrix.store.opening import IndexFile  # noqa: PLC0415 - 0.25 s of imports

        return IndexFile(path=self.path / INDEX_FILE, blobs=self.blobs, notice=self._notice)

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        _LOGGER.warning(text)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _check_folder(path: Path, *, create: bool) -> None:
    if not path.exists():
        if create:
            return
        raise NotFound(
            "no Adaptrix home", where=str(path), hint="Run adaptrix init.", code="no_home"
        )
    if not path.is_dir():
        raise UsageError("a home is a folder, this is a file", where=str(path), code="no_home")
    entries = {entry.name for entry in path.iterdir()} - {"lost+found"}
    names = {entry for entry in entries if not entry.startswith(".")}
    if names and not names & _OWN_NAMES:
        raise UsageError(
            "the folder holds something else",
            where=str(path),
            hint="Set ADAPTRIX_HOME to a new or an empty folder.",
            code="no_home",
        )
