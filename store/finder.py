"""Full text (SQLite's FTS5) and typed filters over the names of a home.

One row of the text index per name, with what its version says of itself; it is written
with every move of the name, in the same transaction, and rebuilt with the index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sqlmodel import Session

from adaptrix.schema.digest import Digest
from adaptrix.store.entries import Listing, ReferenceRow
from adaptrix.store.query import SearchQuery, Span
from adaptrix.store.rows import entry_of

CREATE_SEARCH = """CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(
    name, description, text, prefix='2 3', tokenize='unicode61 remove_diacritics 2')"""
_DROP = 'DELETE FROM search WHERE rowid = (SELECT rowid FROM "references" WHERE name=? AND tag=?)'
_PUT = """INSERT INTO search(rowid, name, description, text)
    SELECT r.rowid, r.name || ':' || r.tag, coalesce(v.description, ''),
        coalesce(v.domain || ' ' || coalesce((SELECT group_concat(value, ' ')
            FROM json_each(v.capabilities)), '') || ' ' || v.training_data || ' ' || v.family
            || ' ' || v.base || ' ' || v.license || ' ' || v.method || ' ' || coalesce((SELECT
            group_concat(value, ' ') FROM json_each(v.targets)), '') || ' ' || v.source_repository || ' ' || v.format, '')
    FROM "references" r LEFT JOIN versions v ON v.digest = r.digest
    WHERE r.name=? AND r.tag=?"""
_SELECT = """SELECT r.name AS reference_name, r.tag AS reference_tag,
    r.digest AS reference_digest, v.*"""
_WITHOUT_TEXT = 'FROM "references" r LEFT JOIN versions v ON v.digest = r.digest'
_WITH_TEXT = """FROM search JOIN "references" r ON r.rowid = search.rowid
    LEFT JOIN versions v ON v.digest = r.digest"""
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM search WHERE search MATCH ? LIMIT ?)"
_SCORE = "bm25(search, 10.0, 4.0, 1.0)"
"""A hit in the name counts most."""
SORTED = 2_000
RANKED = 20_000
"""Words that fit more names than this say nothing of any of them: they are not ranked."""
_MOVED = "SELECT max(time) FROM reflog m WHERE m.name = r.name AND m.tag = r.tag"
_PLAIN_WORD = re.compile(r"\w+")


def put_text(session: Session, name: str, tag: str) -> None:
    """Write the text of a name anew, after it was moved."""
    drop_text(session, name, tag)
    session.connection().exec_driver_sql(_PUT, (name, tag))


def drop_text(session: Session, name: str, tag: str) -> None:
    """Forget the text of a name, before it is removed."""
    session.connection().exec_driver_sql(_DROP, (name, tag))


def clear_text(session: Session) -> None:
    """Forget all."""
    session.connection().exec_driver_sql("DELETE FROM search")


def find(session: Session, query: SearchQuery) -> tuple[Listing, ...]:
    """Names that fit, the best first; without words, sorted by name."""
    connection = session.connection()
    conditions = list(_conditions(query))
    match = " ".join(_fts(word) for word in query.words if re.search(r"\w", word))
    order = "r.name, r.tag"
    if match:
        conditions.insert(0, ("search MATCH ?", (match,)))
        count = connection.exec_driver_sql(_COUNT, (match, RANKED + 1)).scalar_one()
        order = _order(int(count))
    source = _WITH_TEXT if query.words else _WITHOUT_TEXT
    where = " AND ".join(f"({sql})" for sql, _ in conditions) or "1"
    sql = f"{_SELECT} {source} WHERE {where} ORDER BY {order} LIMIT {query.limit or -1:d}"
    parameters = tuple(value for _, values in conditions for value in values)
    rows = connection.exec_driver_sql(sql, parameters)
    return tuple(_listing(row) for row in rows)


def _order(hits: int) -> str:
    """How to sort so many hits: a full sort, FTS5's own, or none where all are alike."""
    if hits <= SORTED:
        return f"{_SCORE}, r.name, r.tag"
    return "rank" if hits <= RANKED else "search.rowid"


def _listing(row: Any) -> Listing:
    reference = ReferenceRow(
        name=row.reference_name,
        tag=row.reference_tag,
        digest=Digest.parse(row.reference_digest),
    )
    return Listing(reference=reference, version=entry_of(row) if row.digest else None)


def _fts(word: str) -> str:
    """A word's beginning; punctuation inside makes it a phrase."""
    return '"' + word.replace('"', '""') + '"*'


_EQUAL = ("family", "method", "license", "format")
_WITHIN = {"base": "base", "domain": "domain", "capability": "capabilities"}
_TEXT = "search.name || char(10) || search.description || char(10) || search.text"
Condition = tuple[str, tuple[object, ...]]


def _conditions(query: SearchQuery) -> Iterator[Condition]:
    """SQL with its parameters; no text of the user becomes part of the SQL."""
    for word in query.words:
        if not _PLAIN_WORD.fullmatch(word):
            # The text index knows words only: the rest is compared as it stands.
            yield f"instr(lower({_TEXT}), ?)", (word.lower(),)
    for field in _EQUAL:
        if value := getattr(query, field):
            yield f"lower(v.{field}) = ?", (value.lower(),)
    for field, column in _WITHIN.items():
        if value := getattr(query, field):
            yield f"instr(lower(v.{column}), ?)", (value.lower(),)
    if query.module:
        yield "EXISTS (SELECT 1 FROM json_each(v.targets) t WHERE t.value = ?)", (query.module,)
    yield from _bounds(query)


def _bounds(query: SearchQuery) -> Iterator[Condition]:
    if query.rank:
        inside, values = _between("t.value", query.rank)
        yield f"EXISTS (SELECT 1 FROM json_each(v.ranks) t WHERE {inside})", values  # noqa: S608
    if query.size_bytes:
        yield _between("v.size_bytes", query.size_bytes)
    if query.since:
        yield f"({_MOVED}) >= ?", (query.since,)
    if query.until:
        # A date alone means the whole day.
        yield f"substr(({_MOVED}), 1, {len(query.until):d}) <= ?", (query.until,)


def _between(column: str, span: Span) -> Condition:
    pairs = ((">=", span.low), ("<=", span.high))
    bounds = [(f"{column} {sign} ?", bound) for sign, bound in pairs if bound is not None]
    return " AND ".join(sql for sql, _ in bounds) or "1", tuple(bound for _, bound in bounds)
