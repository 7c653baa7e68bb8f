"""Names: what they point to, moved by compare-and-swap, every move on record.

A move is first written as a blob (:class:`ReferenceRecord`), then to the index. The
records of one name form a chain, newest to oldest, so names and reflog can be rebuilt from
the blobs alone. The record's form is stable.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from adaptrix.schema import media_types
from adaptrix.schema.canonical import canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AdaptrixError,
    FormatError,
    InvalidReference,
    NotFound,
    StoreError,
    UsageError,
)
from adaptrix.schema.reference import Reference
from adaptrix.store.disk import DiskStore
from adaptrix.store.entries import ReferenceRow, ReflogEntry
from adaptrix.store.layout import (
    MAX_LISTED_REFERENCES,
    OMITTED_INDEX,
    index_bytes,
    is_current,
    write_index,
)
from adaptrix.store.verifier import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from adaptrix.store.index import Index
    from adaptrix.store.transaction import IndexTransaction

MAX_REASON = 1000
Clock = Callable[[], datetime]


class ReferenceConflict(StoreError):
    """A name points elsewhere than the caller believed: somebody was faster.

    Attributes:
        wanted: Where the caller believed it points; None for "does not exist".
        got: Where it points.
    """

    code = "reference_conflict"

    def __init__(self, *, where: str, wanted: Digest | None, got: Digest | None) -> None:
        super().__init__(
            f"expected {wanted or 'no such name'}, got {got or 'no such name'}",
            where=where,
            hint="Another command moved it meanwhile. Look at adaptrix log, then try again.",
        )
        self.wanted = wanted
        self.got = got


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRecord:
    """One move of a name; ``ReferenceRecord.parse(r.to_bytes()) == r``.

    Attributes:
        name: The name.
        tag: The tag.
        digest: Where it points from then on; None when it was removed.
        previous: Digest of the record of the move before; None for the first.
        time: When, in UTC.
        reason: Why, in a few words.
    """

    name: str
    tag: str
    digest: Digest | None
    previous: Digest | None
    time: datetime
    reason: str

    def to_bytes(self) -> bytes:
        """The record as canonical JSON."""
        return canonical_json(
            {
                "mediaType": media_types.REFERENCE_RECORD,
                "name": self.name,
                "tag": self.tag,
                "digest": str(self.digest) if self.digest else None,
                "previous": str(self.previous) if self.previous else None,
                "time": self.time.astimezone(UTC).isoformat(timespec="microseconds"),
                "reason": self.reason,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a record.

        Raises:
            FormatError: not exactly what :meth:`to_bytes` writes.
        """
        try:
            document = json.loads(data)
            record = cls(
                name=document["name"],
                tag=document["tag"],
                digest=_optional_digest(document["digest"]),
                previous=_optional_digest(document["previous"]),
                time=datetime.fromisoformat(document["time"]),
                reason=_text(document["reason"]),
            )
            name_of(record.name, record.tag)
            canonical = record.to_bytes()
        except (
            ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidReference,
        ) as error:  # fmt: skip
            raise FormatError(f"not a reference record: {error!r}", where="blob") from error
        if canonical != data or len(data) > MAX_RECORD_BYTES:
            raise FormatError("not a reference record in canonical form", where="blob")
        return record


class References:
    """The names of one home."""

    def __init__(
        self, root: Path, blobs: DiskStore, index: Callable[[], Index], clock: Clock
    ) -> None:
        self._root = root
        self._blobs = blobs
        self._index = index
        self._clock = clock

    def get(self, name: str, tag: str) -> Digest | None:
        """Where a name points; None when it does not exist."""
        return self._index().reference(name, tag)

    def set(
        self, name: str, tag: str, new: Digest, *, expected: Digest | None, reason: str
    ) -> bool:
        """Point a name to a version.

        Args:
            name: The name.
            tag: The tag.
            new: Digest of the version's manifest.
            expected: Where it points now; None for "does not exist".
            reason: For the reflog.

        Returns:
            Whether it moved; False when it pointed there already.

        Raises:
            ReferenceConflict: it points elsewhere than ``expected``.
            NotFound: ``new`` is no version of this home.
            InvalidReference: no such name is allowed.
            StoreError: it could not be written.
        """
        return self._move(name, tag, new, expected=expected, reason=reason)

    def delete(self, name: str, tag: str, *, expected: Digest, reason: str) -> bool:
        """Remove a name; the version stays reachable through the reflog for a while.

        Raises:
            ReferenceConflict: it points elsewhere than ``expected``.
            StoreError: it could not be written.
        """
        return self._move(name, tag, None, expected=expected, reason=reason)

    def all(self) -> list[ReferenceRow]:
        """All names, sorted."""
        return self._index().references()

    def log(self, name: str, tag: str) -> list[ReflogEntry]:
        """Moves of a name, newest first; also of one that was removed."""
        return self._index().reflog(name, tag)

    def relist(self, transaction: IndexTransaction, *, everything: bool = False) -> None:
        """Write ``index.json`` anew.

        Inside the transaction, so that what is written last is also what was moved last.

        Args:
            transaction: The one that moved a name.
            everything: List all names, however many there are.

        Raises:
            AdaptrixError: it cannot be written.
        """
        content = OMITTED_INDEX
        if everything or not transaction.has_more_names_than(MAX_LISTED_REFERENCES):
            content = index_bytes(*transaction.listing(), everything=everything)
        write_index(self._root, content)

    def settle(self) -> None:
        """Write ``index.json`` anew when a crash left it ahead of the names, or behind.

        Raises:
            AdaptrixError: it cannot be written.
        """
        index = self._index()
        if not is_current(self._root, index.last_move()):
            with index.writing() as transaction:
                self.relist(transaction)

    def _move(
        self, name: str, tag: str, new: Digest | None, *, expected: Digest | None, reason: str
    ) -> bool:
        if len(reason) > MAX_REASON:
            raise UsageError(
                f"a reason has at most {MAX_REASON} characters", where=name_of(name, tag)
            )
        written: Digest | None = None
        try:
            with self._index().writing() as transaction:
                self._check(transaction, name, tag, new, expected)
                if expected == new:
                    return False
                record = ReferenceRecord(
                    name=name,
                    tag=tag,
                    digest=new,
                    previous=transaction.last_record(name, tag),
                    time=self._clock().astimezone(UTC),
                    reason=reason,
                )
                written = self._blobs.put_record(record.to_bytes())
                transaction.move(name, tag, entry_of_record(record, written, old=expected))
                self.relist(transaction)
        except BaseException:
            if written is not None:
                self._undo(name, tag, written)
            raise
        return True

    def _check(
        self,
        transaction: IndexTransaction,
        name: str,
        tag: str,
        new: Digest | None,
        expected: Digest | None,
    ) -> None:
        where, current = name_of(name, tag), transaction.reference(name, tag)
        if new is not None and not (transaction.knows(new) and self._blobs.has(new)):
            raise NotFound("no such version", where=str(new), code="unknown_version")
        if current != expected:
            raise ReferenceConflict(where=where, wanted=expected, got=current)

    def _undo(self, name: str, tag: str, written: Digest) -> None:
        """Take back the record of a move that did not happen.

        Else a rebuild would make it happen. The index decides: an interruption may come
        after its commit, and then the record stays.
        """
        with suppress(AdaptrixError, OSError):
            index = self._index()
            if all(entry.record != written for entry in index.reflog(name, tag)):
                self._blobs.place(written).unlink(missing_ok=True)
                write_index(self._root, index_bytes(*index.listing()))


def entry_of_record(record: ReferenceRecord, digest: Digest, *, old: Digest | None) -> ReflogEntry:
    """The reflog's line for a record with this digest."""
    return ReflogEntry(
        old=old, new=record.digest, reason=record.reason, time=record.time, record=digest
    )


def name_of(name: str, tag: str) -> str:
    """``name:tag``, checked.

    Raises:
        InvalidReference: not allowed as a name.
    """
    return str(Reference(parts=tuple(name.split("/")), tag=tag))


def _optional_digest(text: str | None) -> Digest | None:
    return None if text is None else Digest.parse(text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value
