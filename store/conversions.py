"""The log of conversions: one row per attempt, in the index file, beside its tables.

Unlike the other tables it cannot be made again from the blobs: a refusal leaves none. So it
is no part of the index's schema; ``reindex`` leaves it alone, an index file that is set
aside as damaged takes it along. Writing it must never fail what it is about: it waits a
moment only, and a home that is locked, full or read-only keeps no log of that attempt.
Without the SQL toolkit, so that a refusal costs no imports.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path

WAIT_S = 0.5
MAX_ROWS = 100_000
"""Older rows are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """One attempt.

    Attributes:
        time: When it ended: ISO 8601, UTC.
        verb: ``pull`` or ``convert``.
        source: What was converted, as the user named it.
        target: Format that was written.
        outcome: ``done``; ``refused``: the content was looked at and not converted;
            ``failed``: it could not be looked at or not be stored.
        code: Code of the problem or error that stopped it, or ``""``.
        format, method, architecture, fidelity, verdict: As recognised, ``""`` when unknown.
        modules: Adapted modules.
        bytes: Bytes of the tensors that were read.
        seconds: How long it took, network included.
    """

    time: str
    verb: str
    source: str
    target: str
    outcome: str
    code: str
    format: str
    method: str
    architecture: str
    fidelity: str
    verdict: str
    modules: int
    bytes: int
    seconds: float


_NAMES = tuple(field.name for field in fields(Conversion))
_CREATE = (
    "CREATE TABLE IF NOT EXISTS conversions (sequence INTEGER PRIMARY KEY AUTOINCREMENT, "
    + ", ".join(f"{name} NOT NULL" for name in _NAMES)
    + ")"
)
_INSERT = (
    f"INSERT INTO conversions ({', '.join(_NAMES)}) "  # noqa: S608 - our own names
    f"VALUES ({', '.join('?' * len(_NAMES))})"
)
_SELECT = f"SELECT {', '.join(_NAMES)} FROM conversions ORDER BY sequence"  # noqa: S608


def log_conversion(path: Path, entry: Conversion) -> bool:
    """Add ``entry`` to the index file at ``path``; False when that was not possible now."""
    # sqlite3 would make an empty file where there is none, which is no index.
    if not path.is_file() or not os.access(path, os.W_OK):
        return False
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S)) as connection:
            # A row lost in a power cut is no loss of anybody's work: no wait for the disk.
            connection.execute("PRAGMA synchronous = NORMAL")
            with connection:
                connection.execute(_CREATE)
                sequence = connection.execute(_INSERT, astuple(entry)).lastrowid or 0
                connection.execute(
                    "DELETE FROM conversions WHERE sequence <= ?", (sequence - MAX_ROWS,)
                )
    except sqlite3.Error:
        return False
    return True


def read_conversions(path: Path) -> tuple[Conversion, ...]:
    """All rows, oldest first; none where there is no log or it cannot be read."""
    if not path.is_file():
        return ()
    for mode in ("mode=ro", "mode=ro&immutable=1"):  # a read-only folder cannot hold side files
        try:
            target = f"{path.absolute().as_uri()}?{mode}"
            with closing(sqlite3.connect(target, uri=True, timeout=WAIT_S)) as connection:
                rows = connection.execute(_SELECT).fetchall()
        except sqlite3.Error:
            continue
        return tuple(Conversion(**dict(zip(_NAMES, row, strict=True))) for row in rows)
    return ()
