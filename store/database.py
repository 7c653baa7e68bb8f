"""One SQLite file, opened so that a power cut loses nothing and readers never wait.

WAL with ``synchronous=FULL`` (in WAL mode, less does not survive a power cut); where WAL is
refused, as on network file systems, the rollback journal. Every write is one ``BEGIN
IMMEDIATE`` transaction, so compare-and-swap needs no lock of its own. SQLite's errors leave
this module as ours.
"""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool
from sqlmodel import Session, SQLModel

from adaptrix.schema.errors import AccessDenied, AdaptrixError, StoreError
from adaptrix.store.entries import INDEX_VERSION
from adaptrix.store.faults import LITTLE_BYTES, DiskFull, StoreBusy, StoreReadOnly, free_bytes
from adaptrix.store.finder import CREATE_SEARCH
from adaptrix.store.tables import TABLES

BUSY_TIMEOUT_MS = 30_000


class CorruptIndex(StoreError):
    """The SQLite file is damaged, or was written by an older version of this program."""

    code = "corrupt_index"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            reason, where=str(path), hint="Run adaptrix reindex: the blobs hold everything."
        )


class Database:
    """A connection pool to one index file.

    Attributes:
        path: The file, or where it would be when the index is in memory.
        read_only: Whether nothing can be written.
    """

    def __init__(
        self, engine: Engine, path: Path, *, read_only: bool, refusal: StoreError | None = None
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._refusal = refusal
        self._engine = engine
        # A pool that is merely forgotten would leave its connections to the collector.
        self._finalizer = weakref.finalize(self, engine.dispose)

    @classmethod
    def open(cls, path: Path, fill: Callable[[Session], None]) -> Database:
        """Open ``path``; a new or empty file is created and filled in one transaction.

        Raises:
            CorruptIndex: no index of this version.
            StoreError: it cannot be opened.
        """
        database = cls(_engine(path), path, read_only=False)
        try:
            if database._version() == 0:
                database._create(fill)
            database._check_version()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def open_read_only(cls, path: Path, *, refusal: StoreError | None = None) -> Database:
        """Open ``path`` without writing anything, not even beside it.

        Args:
            path: The file.
            refusal: Why nothing can be written; raised when it is tried.

        Raises:
            CorruptIndex: no index of this version, or one with pending changes that
                cannot be read without writing.
        """
        try:
            return cls._open_read_only(path, "mode=ro", refusal)
        except (AccessDenied, DiskFull):
            # No shared memory beside it, and none can be made: then nobody is writing.
            pending = path.with_name(path.name + "-wal")
            if pending.exists() and pending.stat().st_size:
                reason = "holds changes that only a writer can read"
                raise CorruptIndex(path, reason) from None
            return cls._open_read_only(path, "immutable=1", refusal)

    @classmethod
    def _open_read_only(cls, path: Path, mode: str, refusal: StoreError | None) -> Database:
        database = cls(_engine(path, mode), path, read_only=True, refusal=refusal)
        try:
            database._check_version()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def in_memory(cls, path: Path, fill: Callable[[Session], None]) -> Database:
        """An index that lasts as long as the process, for a home that cannot hold one."""
        database = cls(_engine(None), path, read_only=True)
        database._create(fill)
        return database

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session on one consistent state.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._translated(), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that excludes other writers; commits on leaving, or changes nothing.

        Raises:
            StoreReadOnly: the home cannot be written.
            StoreBusy: others wrote for longer than the time-out.
            DiskFull: no room.
        """
        if self.read_only:
            raise self._refusal or StoreReadOnly(where=str(self.path.parent))
        with self._immediate() as session:
            yield session

    def integrity(self, *, quick: bool) -> list[str]:
        """What SQLite's own check finds wrong."""
        pragma = "PRAGMA quick_check" if quick else "PRAGMA integrity_check"
        with self._translated(), self._engine.connect() as connection:
            rows = [str(row[0]) for row in connection.exec_driver_sql(pragma)]
        return [] if rows == ["ok"] else rows

    def close(self) -> None:
        """Close all connections."""
        self._finalizer()

    @contextmanager
    def _immediate(self) -> Iterator[Session]:
        with (
            self._translated(),
            self._engine.connect().execution_options(immediate=True) as connection,
            connection.begin(),
            Session(connection) as session,
        ):
            yield session
            session.flush()

    def _version(self) -> int:
        with self._translated(), self._engine.connect() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            # The pragma alone does not look beyond the first page.
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
            if version == INDEX_VERSION:
                for table in TABLES:
                    connection.exec_driver_sql(f'SELECT * FROM "{table.__tablename__}" LIMIT 1')  # noqa: S608
        return int(version)

    def _check_version(self) -> None:
        version = self._version()
        if version != INDEX_VERSION:
            reason = f"index schema {version}, expected {INDEX_VERSION}"
            raise CorruptIndex(self.path, reason)

    def _create(self, fill: Callable[[Session], None]) -> None:
        with self._immediate() as session:
            connection = session.connection()
            if connection.exec_driver_sql("PRAGMA user_version").scalar_one():
                return  # another process was faster
            tables = [SQLModel.metadata.tables[str(table.__tablename__)] for table in TABLES]
            SQLModel.metadata.create_all(connection, tables=tables)
            connection.exec_driver_sql(CREATE_SEARCH)
            fill(session)
            session.flush()
            connection.exec_driver_sql(f"PRAGMA user_version = {INDEX_VERSION}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise _translate(error.orig, self.path) from error
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error


def _engine(path: Path | None, mode: str = "") -> Engine:
    if path is None:
        memory = {"check_same_thread": False}
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=memory)
    else:
        target = f"{path.absolute().as_uri()}?{mode}"
        engine = create_engine("sqlite://", creator=lambda: _connect(target), poolclass=QueuePool)
    event.listen(engine, "connect", _on_connect(writable=path is not None and not mode))
    event.listen(engine, "begin", _on_begin)
    return engine


def _connect(target: str) -> sqlite3.Connection:
    return sqlite3.connect(
        target, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False
    )


def _on_connect(*, writable: bool) -> Callable[[Any, Any], None]:
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # Transactions are begun by _on_begin: the driver's own begin too late for us.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        if writable:
            _set_journal(connection)
            connection.execute("PRAGMA synchronous = FULL")

    return configure


def _set_journal(connection: sqlite3.Connection) -> None:
    """WAL; the rollback journal where WAL is refused."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            # Two processes that open a new file at once: the busy handler is not asked here.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            connection.execute("PRAGMA journal_mode = DELETE")
        return


def _on_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _code(error: BaseException | None) -> int:
    extended: int = getattr(error, "sqlite_errorcode", 0) or 0
    return extended & 0xFF


def _translate(error: BaseException | None, path: Path) -> AdaptrixError:
    code, place, reason = _code(error), str(path), str(error)
    free = free_bytes(path.parent)
    little = free is not None and free < LITTLE_BYTES
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and little):
        return DiskFull(where=place, needed_bytes=None, free_bytes=free)
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}:
        return StoreReadOnly(where=place, reason=reason)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreBusy(reason, where=place, hint="Try again when the others are done.")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or _is_foreign(error):
        return CorruptIndex(path, reason)
    return StoreError(reason, where=place, code="index")


def _is_foreign(error: BaseException | None) -> bool:
    return "no such table" in str(error) or "no such column" in str(error)
