"""Pages of names for ``ls``, asked of SQLite directly.

Importing the SQL toolkit takes longer than all the rest of ``adaptrix ls``. Whatever is not
quite right with the file is left to :class:`~adaptrix.store.index.Index`, which mends it.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from adaptrix.schema.digest import Digest
from adaptrix.store.entries import INDEX_VERSION, Listing, ReferenceRow, VersionEntry

_PAGE = """
SELECT r.name, r.tag, r.digest, v.* FROM "references" r
LEFT JOIN versions v ON v.digest = r.digest
WHERE (:pattern IS NULL OR r.name GLOB :pattern OR r.name || ':' || r.tag GLOB :pattern)
AND (:name = '' OR (r.name, r.tag) > (:name, :tag))
ORDER BY r.name, r.tag LIMIT :limit
"""
_READ = {"digest", "tensors_digest", "ranks", "capabilities"}


def page(path: Path, pattern: str | None, *, limit: int, after: str) -> tuple[Listing, ...] | None:
    """As :meth:`Index.adapters`; None when the file cannot answer as it stands."""
    name, _, tag = after.partition(":")
    given = {"pattern": pattern, "name": name, "tag": tag, "limit": limit or -1}
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != INDEX_VERSION:
                return None
            cursor = connection.execute(_PAGE, given)
            columns = [column[0] for column in cursor.description[3:]]
            return tuple(_listing(row, columns) for row in cursor)
    except (sqlite3.Error, ValueError):
        return None


def _listing(row: tuple[str, ...], columns: list[str]) -> Listing:
    name, tag, target = row[:3]
    reference = ReferenceRow(name=name, tag=tag, digest=Digest.parse(target))
    values = dict(zip(columns, row[3:], strict=True))
    if values["digest"] is None:
        return Listing(reference=reference, version=None)
    plain = {key: values[key] for key in VersionEntry.__slots__ if key not in _READ}
    version = VersionEntry(
        digest=Digest.parse(values["digest"]),
        tensors_digest=Digest.parse(values["tensors_digest"]),
        ranks=tuple(json.loads(values["ranks"])),
        capabilities=tuple(json.loads(values["capabilities"])),
        **plain,  # type: ignore[arg-type]
    )
    return Listing(reference=reference, version=version)
