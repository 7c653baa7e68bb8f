"""The SQLite index: answers questions about versions, names and lineage.

While it exists it is the truth about names; it can always be made again from the blobs
(``store.rebuild``). :class:`Index` reads, :class:`IndexTransaction` writes, both in terms
of ``store.entries``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, col, select

from adaptrix.schema.digest import Digest
from adaptrix.store.database import Database
from adaptrix.store.entries import (
    LineageEdge,
    Listing,
    ReferenceRow,
    ReflogEntry,
    StoredBlob,
    VersionEntry,
)
from adaptrix.store.finder import find
from adaptrix.store.query import SearchQuery
from adaptrix.store.rows import (
    edge_of,
    entry_of,
    move_of,
    reference_of,
    source_key,
)
from adaptrix.store.tables import (
    BlobTable,
    ParentTable,
    ReferenceTable,
    ReflogTable,
    SignatureTable,
    VersionTable,
)
from adaptrix.store.transaction import (
    IndexTransaction,
    Listed,
    last_move,
    manifest_sizes,
    references,
    target,
)


class Index:
    """Read access.

    Attributes:
        database: Where the tables are.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def version(self, digest: Digest) -> VersionEntry | None:
        """The version with this manifest digest."""
        found = self._versions(col(VersionTable.digest) == str(digest))
        return found[0] if found else None

    def versions(self) -> tuple[VersionEntry, ...]:
        """All versions, oldest first."""
        return self._versions()

    def find_by_source(
        self, repository: str, files: Iterable[Digest] | None = None
    ) -> tuple[VersionEntry, ...]:
        """Versions made from a repository, oldest first.

        Args:
            repository: As in the manifest's source; ``""`` for local files.
            files: Digests of the source files; None for any.
        """
        where = col(VersionTable.source_repository) == repository
        if files is not None:
            where = and_(where, col(VersionTable.source_key) == source_key(files))
        return self._versions(where)

    def find_by_tensors(self, tensors_digest: Digest) -> tuple[VersionEntry, ...]:
        """Versions that hold these tensors, oldest first."""
        return self._versions(col(VersionTable.tensors_digest) == str(tensors_digest))

    def with_prefix(self, hex_prefix: str, *, limit: int = 10) -> tuple[Digest, ...]:
        """Digests of versions that begin with ``hex_prefix``."""
        query = (
            select(VersionTable.digest)
            .where(col(VersionTable.digest).startswith(f"sha256:{hex_prefix}", autoescape=True))
            .order_by(col(VersionTable.digest))
            .limit(limit)
        )
        with self.database.reading() as session:
            return tuple(Digest.parse(text) for text in session.exec(query))

    def adapters(
        self, pattern: str | None = None, *, limit: int = 0, after: str = ""
    ) -> tuple[Listing, ...]:
        """Names with their versions, sorted.

        Args:
            pattern: Shell pattern (``*``, ``?``, ``[…]``) for ``name`` or ``name:tag``.
            limit: At most so many; 0 for all.
            after: Only those behind this ``name:tag``.
        """
        name, tag = col(ReferenceTable.name), col(ReferenceTable.tag)
        where: list[ColumnElement[bool]] = []
        if pattern is not None:
            full = name.op("||")(":").op("||")(tag)
            where.append(or_(name.op("GLOB")(pattern), full.op("GLOB")(pattern)))
        if after:
            last_name, _, last_tag = after.partition(":")
            where.append(or_(name > last_name, and_(name == last_name, tag > last_tag)))
        return self._listings(*where, limit=limit)

    def search(self, query: SearchQuery | str) -> tuple[Listing, ...]:
        """Names that fit, the best first; text alone is taken as words."""
        wanted = SearchQuery(words=tuple(query.split())) if isinstance(query, str) else query
        with self.database.reading() as session:
            return find(session, wanted)

    def signatures(self) -> dict[Digest, dict[str, float]]:
        """Energies by module path of the versions for which they were computed."""
        with self.database.reading() as session:
            rows = session.exec(select(SignatureTable))
            return {Digest.parse(row.digest): json.loads(row.energies) for row in rows}

    def file_bytes(self) -> int:
        """Bytes of all files that versions hold, each counted once."""
        query = select(BlobTable.digest, BlobTable.size_bytes).where(col(BlobTable.position) > 0)
        with self.database.reading() as session:
            return sum(size for _, size in session.exec(query.distinct()))

    def parents(self, digest: Digest) -> tuple[LineageEdge, ...]:
        """Edges to the parents, in the manifest's order."""
        return self._edges(col(ParentTable.child) == str(digest))

    def children(self, digest: Digest) -> tuple[LineageEdge, ...]:
        """Edges from the known versions that descend from ``digest``."""
        return self._edges(col(ParentTable.parent) == str(digest))

    def lineage(self) -> tuple[LineageEdge, ...]:
        """All edges."""
        return self._edges()

    def blobs(self, digest: Digest) -> tuple[StoredBlob, ...]:
        """Config and files of a version, in the manifest's order; empty when unknown."""
        query = (
            select(BlobTable)
            .where(col(BlobTable.version) == str(digest))
            .order_by(col(BlobTable.position))
        )
        with self.database.reading() as session:
            return tuple(
                StoredBlob(
                    digest=Digest.parse(row.digest), size_bytes=row.size_bytes, path=row.path
                )
                for row in session.exec(query)
            )

    def reference(self, name: str, tag: str) -> Digest | None:
        """Where a name points."""
        with self.database.reading() as session:
            return target(session, name, tag)

    def references(self) -> list[ReferenceRow]:
        """All names, sorted."""
        with self.database.reading() as session:
            return references(session)

    def named(self, digest: Digest) -> tuple[ReferenceRow, ...]:
        """Names that point to a version, sorted."""
        query = (
            select(ReferenceTable)
            .where(col(ReferenceTable.digest) == str(digest))
            .order_by(col(ReferenceTable.name), col(ReferenceTable.tag))
        )
        with self.database.reading() as session:
            return tuple(reference_of(row) for row in session.exec(query))

    def reflog(self, name: str, tag: str) -> list[ReflogEntry]:
        """Moves of a name, newest first."""
        with self.database.reading() as session:
            return [move_of(row) for row in _reflog(session, name, tag)]

    def moves(self) -> list[tuple[ReferenceRow | None, str, str, ReflogEntry]]:
        """Every move as (current reference or None, name, tag, entry), oldest first."""
        with self.database.reading() as session:
            current = {(row.name, row.tag): row for row in references(session)}
            rows = session.exec(select(ReflogTable).order_by(col(ReflogTable.sequence)))
            return [(current.get((r.name, r.tag)), r.name, r.tag, move_of(r)) for r in rows]

    def listing(self) -> Listed:
        """All names, sizes of their manifests, and the latest move, at one moment."""
        with self.database.reading() as session:
            return references(session), manifest_sizes(session), last_move(session)

    def last_move(self) -> Digest | None:
        """Record of the latest move of any name."""
        with self.database.reading() as session:
            return last_move(session)

    @contextmanager
    def writing(self) -> Iterator[IndexTransaction]:
        """Write in one transaction that excludes other writers.

        Raises:
            StoreReadOnly: the home cannot be written.
            StoreBusy: others wrote for longer than the time-out.
            DiskFull: no room.
        """
        with self.database.writing() as session:
            yield IndexTransaction(session)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _versions(self, *where: ColumnElement[bool]) -> tuple[VersionEntry, ...]:
        query = select(VersionTable).where(*where).order_by(col(VersionTable.sequence))
        with self.database.reading() as session:
            return tuple(entry_of(row) for row in session.exec(query))

    def _edges(self, *where: ColumnElement[bool]) -> tuple[LineageEdge, ...]:
        query = (
            select(ParentTable)
            .where(*where)
            .order_by(col(ParentTable.child), col(ParentTable.position))
        )
        with self.database.reading() as session:
            return tuple(edge_of(row) for row in session.exec(query))

    def _listings(self, *where: ColumnElement[bool], limit: int = 0) -> tuple[Listing, ...]:
        query = (
            select(ReferenceTable, VersionTable)
            .join(
                VersionTable,
                col(ReferenceTable.digest) == col(VersionTable.digest),
                isouter=True,
            )
            .where(*where)
            .order_by(col(ReferenceTable.name), col(ReferenceTable.tag))
            .limit(limit or None)
        )
        with self.database.reading() as session:
            # An outer join: the second row is None when the manifest is lost.
            pairs: Sequence[tuple[ReferenceTable, VersionTable | None]]
            pairs = session.exec(query).all()
            return tuple(
                Listing(reference=reference_of(row), version=entry_of(version) if version else None)
                for row, version in pairs
            )


def _reflog(session: Session, name: str, tag: str) -> Sequence[ReflogTable]:
    query = (
        select(ReflogTable)
        .where(col(ReflogTable.name) == name, col(ReflogTable.tag) == tag)
        .order_by(col(ReflogTable.sequence).desc())
    )
    return session.exec(query).all()
