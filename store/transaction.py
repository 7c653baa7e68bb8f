"""Writes to the index, and the questions that they ask."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Insert, and_, bindparam, delete, insert, update
from sqlmodel import Session, SQLModel, col, select

from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest
from adaptrix.store.entries import ReferenceRow, ReflogEntry
from adaptrix.store.finder import clear_text, drop_text, put_text
from adaptrix.store.rows import Row, blob_rows, parent_rows, reference_of, version_row
from adaptrix.store.tables import (
    TABLES,
    BlobTable,
    ParentTable,
    ReferenceTable,
    ReflogTable,
    SignatureTable,
    VersionTable,
)

Listed = tuple[list[ReferenceRow], dict[Digest, int], Digest | None]
"""All names, the size of each manifest that they point to, the latest move's record."""
# What every move asks and writes, built once: building them anew was a third of its time.
_INSERTS: Mapping[type[SQLModel], Insert] = {
    table: insert(SQLModel.metadata.tables[table.__tablename__]) for table in TABLES
}
_KNOWN = select(VersionTable.sequence).where(col(VersionTable.digest) == bindparam("of_digest"))
_TARGET = select(ReferenceTable.digest).where(
    col(ReferenceTable.name) == bindparam("of_name"), col(ReferenceTable.tag) == bindparam("of_tag")
)
_LAST_RECORD = (
    select(ReflogTable.record)
    .where(col(ReflogTable.name) == bindparam("of_name"))
    .where(col(ReflogTable.tag) == bindparam("of_tag"))
    .order_by(col(ReflogTable.sequence).desc())
    .limit(1)
)


class IndexTransaction:
    """Write access for one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self, manifest: Manifest, *, digest: Digest, manifest_bytes: int, config: Descriptor
    ) -> bool:
        """Add a version; False when it is known already.

        Args:
            manifest: The version.
            digest: Digest of the manifest as it is stored.
            manifest_bytes: Its size as it is stored.
            config: Its config as it is stored.
        """
        if self.knows(digest):
            return False
        self._insert(VersionTable, version_row(manifest, digest, manifest_bytes))
        self._insert(BlobTable, *blob_rows(manifest, digest, config))
        self._insert(ParentTable, *parent_rows(manifest, digest))
        return True

    def forget(self, digest: Digest) -> None:
        """Remove a version; its blobs stay for ``gc``."""
        text = str(digest)
        for where in (
            delete(VersionTable).where(col(VersionTable.digest) == text),
            delete(BlobTable).where(col(BlobTable.version) == text),
            delete(ParentTable).where(col(ParentTable.child) == text),
            delete(SignatureTable).where(col(SignatureTable.digest) == text),
        ):
            self._session.exec(where)

    def knows(self, digest: Digest) -> bool:
        """Whether the version is in the index."""
        found = self._session.connection().execute(_KNOWN, {"of_digest": str(digest)})
        return found.first() is not None

    def reference(self, name: str, tag: str) -> Digest | None:
        """Where a name points."""
        return target(self._session, name, tag)

    def listing(self) -> Listed:
        """All names, sizes of their manifests, and the latest move."""
        session = self._session
        return references(session), manifest_sizes(session), last_move(session)

    def has_more_names_than(self, count: int) -> bool:
        """Whether there are more than ``count`` names, without looking at the others."""
        query = select(ReferenceTable.name).offset(count).limit(1)
        return self._session.exec(query).first() is not None

    def last_record(self, name: str, tag: str) -> Digest | None:
        """Record of the latest move of a name, also of one that was removed."""
        connection = self._session.connection()
        found = connection.execute(_LAST_RECORD, {"of_name": name, "of_tag": tag}).scalar()
        return Digest.parse(found) if found is not None else None

    def move(self, name: str, tag: str, entry: ReflogEntry) -> None:
        """Move a name and write the reflog."""
        self.log(name, tag, entry)
        this = and_(col(ReferenceTable.name) == name, col(ReferenceTable.tag) == tag)
        if entry.new is None:
            drop_text(self._session, name, tag)
            self._session.exec(delete(ReferenceTable).where(this))
            return
        digest = str(entry.new)
        if self.reference(name, tag) is None:
            self._insert(ReferenceTable, {"name": name, "tag": tag, "digest": digest})
        else:
            self._session.exec(update(ReferenceTable).where(this).values(digest=digest))
        put_text(self._session, name, tag)

    def log(self, name: str, tag: str, entry: ReflogEntry) -> None:
        """Write the reflog only."""
        row: Row = {
            "name": name,
            "tag": tag,
            "old": str(entry.old) if entry.old else None,
            "new": str(entry.new) if entry.new else None,
            "reason": entry.reason,
            "time": entry.time.isoformat(),
            "record": str(entry.record),
        }
        self._insert(ReflogTable, row)

    def forget_move(self, record: Digest) -> None:
        """Remove one line of the reflog."""
        self._session.exec(delete(ReflogTable).where(col(ReflogTable.record) == str(record)))

    def clear(self) -> None:
        """Remove everything, to fill it again in the same transaction."""
        for table in TABLES:
            self._session.exec(delete(table))
        clear_text(self._session)

    def sign(self, digest: Digest, energies: Mapping[str, float]) -> None:
        """Keep the energies of a version's modules."""
        row = SignatureTable(digest=str(digest), energies=json.dumps(dict(energies)))
        self._session.merge(row)
        self._session.flush()

    def _insert(self, table: type[SQLModel], *rows: Row) -> None:
        if rows:
            self._session.connection().execute(_INSERTS[table], list(rows))


def target(session: Session, name: str, tag: str) -> Digest | None:
    """Where a name points."""
    found = session.connection().execute(_TARGET, {"of_name": name, "of_tag": tag}).scalar()
    return Digest.parse(found) if found is not None else None


def references(session: Session) -> list[ReferenceRow]:
    """All names, sorted."""
    query = select(ReferenceTable).order_by(col(ReferenceTable.name), col(ReferenceTable.tag))
    return [reference_of(row) for row in session.exec(query)]


def manifest_sizes(session: Session) -> dict[Digest, int]:
    """Size in bytes of each manifest that a name points to."""
    query = select(VersionTable.digest, VersionTable.manifest_bytes).join(
        ReferenceTable, col(ReferenceTable.digest) == col(VersionTable.digest)
    )
    return {Digest.parse(digest): size for digest, size in session.exec(query)}


def last_move(session: Session) -> Digest | None:
    """Record of the latest move of any name."""
    # By time, since a rebuilt index has its rows in another order.
    order = col(ReflogTable.time).desc(), col(ReflogTable.record).desc()
    query = select(ReflogTable.record).order_by(*order).limit(1)
    found = session.exec(query).first()
    return Digest.parse(found) if found else None
