"""Names, asked of SQLite directly: pages of them for ``ls``, and what one points to.

Importing the SQL toolkit takes longer than all the rest of ``adaptrix ls``, or of a plan.
Whatever is not quite right with the file is left to :class:`~adaptrix.store.index.Index`,
which mends it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from adaptrix.schema.digest import Digest
from adaptrix.store.entries import INDEX_VERSION, Listing, ReferenceRow, VersionEntry

T = TypeVar("T")
_PAGE = """
SELECT r.name, r.tag, r.digest, v.* FROM "references" r
LEFT JOIN versions v ON v.digest = r.digest
WHERE (:pattern IS NULL OR r.name GLOB :pattern OR r.name || ':' || r.tag GLOB :pattern)
AND (:name = '' OR (r.name, r.tag) > (:name, :tag))
ORDER BY r.name, r.tag LIMIT :limit
"""
_TARGET = 'SELECT digest FROM "references" WHERE name = ? AND tag = ?'
_READ = {"digest", "tensors_digest", "ranks", "capabilities"}


def page(path: Path, pattern: str | None, *, limit: int, after: str) -> tuple[Listing, ...] | None:
    """As :meth:`Index.adapters`; None when the file cannot answer as it stands."""
    name, _, tag = after.partition(":")
    given = {"pattern": pattern, "name": name, "tag": tag, "limit": limit or -1}

    def ask(connection: sqlite3.Connection) -> tuple[Listing, ...]:
        cursor = connection.execute(_PAGE, given)
        columns = [column[0] for column in cursor.description[3:]]
        return tuple(_listing(row, columns) for row in cursor)

    return _asked(path, ask)


def target(path: Path, name: str, tag: str) -> Digest | None:
    """Where a name points; None when it does not exist, or the file cannot say."""

    def ask(connection: sqlite3.Connection) -> Digest | None:
        row = connection.execute(_TARGET, (name, tag)).fetchone()
        return Digest.parse(row[0]) if row else None

    return _asked(path, ask)


def _asked(path: Path, ask: Callable[[sqlite3.Connection], T]) -> T | None:
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            return ask(connection) if version == INDEX_VERSION else None
    except (sqlite3.Error, ValueError):
        return None


def _listing(row: tuple[Any, ...], columns: list[str]) -> Listing:
    name, tag, target = row[:3]
    reference = ReferenceRow(name=name, tag=tag, digest=Digest.parse(target))
    values: dict[str, Any] = dict(zip(columns, row[3:], strict=True))
    if values["digest"] is None:
        return Listing(reference=reference, version=None)
    plain = {key: values[key] for key in VersionEntry.__slots__ if key not in _READ}
    version = VersionEntry(
        digest=Digest.parse(values["digest"]),
        tensors_digest=Digest.parse(values["tensors_digest"]),
        ranks=tuple(json.loads(values["ranks"])),
        capabilities=tuple(json.loads(values["capabilities"])),
        **plain,
    )
    return Listing(reference=reference, version=version)
