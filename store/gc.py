"""Removing what nothing reaches, without a lock that correctness would rest on.

Kept are: what a name points to; what a name pointed to within the reflog's time; all that
these descend from; the records of all moves in the reflog; and everything that was written
or used again within the grace period, with all that it needs. Time is the file system's
own (a probe file), so a wrong clock on this machine removes nothing early.

A blob is moved aside, looked at once more, and only then deleted: a writer that found it
and renewed its time in between gets it back (see ``DiskStore.freshen``).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError, StoreError
from adaptrix.store.faults import StoreReadOnly, translated
from adaptrix.store.locks import locked
from adaptrix.store.references import ReferenceRecord
from adaptrix.store.verifier import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from adaptrix.store.disk import DiskStore
    from adaptrix.store.home import Home
    from adaptrix.store.index import Index

GRACE_S = 14 * 24 * 3600.0
REFLOG_S = 90 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What a collection did, or would do.

    Attributes:
        removed: Blobs that were removed, sorted.
        freed_bytes: Their sizes, and those of swept attempts, together.
        in_grace: Unreachable blobs that are too young.
        in_grace_bytes: Their sizes together.
        versions: Versions that left the index.
        moves: Lines that left the reflog.
        swept: Attempts of dead processes that were removed from ``tmp/``.
        dry_run: Whether nothing was done.
    """

    removed: tuple[Digest, ...]
    freed_bytes: int
    in_grace: int
    in_grace_bytes: int
    versions: int
    moves: int
    swept: int
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    blobs: tuple[Digest, ...]
    versions: tuple[Digest, ...]
    moves: tuple[Digest, ...]
    in_grace: tuple[Digest, ...]


def collect(
    home: Home,
    *,
    grace_s: float = GRACE_S,
    reflog_s: float = REFLOG_S,
    dry_run: bool = False,
    timeout_s: float = 60.0,
) -> GcReport:
    """Remove what nothing reaches.

    Args:
        home: The home.
        grace_s: Age in seconds below which nothing is removed.
        reflog_s: Age in seconds up to which the reflog keeps what a name pointed to.
        dry_run: Only say what would be removed.
        timeout_s: How long to wait for commands that are writing.

    Raises:
        StoreReadOnly: the home cannot be written.
        StoreBusy: others were writing for longer than ``timeout_s``.
        StoreError: the index does not know a version that is needed; nothing was removed.
    """
    if dry_run:
        return _report(home, _plan(home, grace_s, reflog_s), dry_run=True)
    if home.read_only:
        raise StoreReadOnly(where=str(home.path))
    with locked(home.path / "lock", timeout_s=timeout_s):
        with home.index.writing() as transaction:
            # A move writes its record's blob inside its own transaction, so while this one
            # is open no record is there that the index does not know yet.
            plan = _plan(home, grace_s, reflog_s)
            for record in plan.moves:
                transaction.forget_move(record)
            for version in plan.versions:
                transaction.forget(version)
        return _report(home, plan, dry_run=False, before_s=_now(home) - grace_s)


def _report(home: Home, plan: _Plan, *, dry_run: bool, before_s: float = 0.0) -> GcReport:
    removed: list[Digest] = []
    freed = 0
    for digest in plan.blobs:
        size_bytes = home.blobs.size(digest)
        if dry_run or _remove(home.blobs, digest, before_s):
            removed.append(digest)
            freed += size_bytes
    swept: list[Path] = [] if dry_run else home.blobs.sweep()
    return GcReport(
        removed=tuple(sorted(removed)),
        freed_bytes=freed,
        in_grace=len(plan.in_grace),
        in_grace_bytes=sum(map(home.blobs.size, plan.in_grace)),
        versions=len(plan.versions),
        moves=len(plan.moves),
        swept=len(swept),
        dry_run=dry_run,
    )


def _plan(home: Home, grace_s: float, reflog_s: float) -> _Plan:
    now = _now(home)
    modified = {digest: _modified(home.blobs, digest) for digest in home.blobs.digests()}
    young = {digest for digest, time in modified.items() if now - time < grace_s}
    index = home.index
    kept_moves, expired_moves = _moves(index, datetime.fromtimestamp(now, UTC), reflog_s, young)
    versions = {entry.digest for entry in index.versions()}
    named = {row.digest for row in index.references()}
    for entry_digests in kept_moves.values():
        named |= entry_digests
    kept_versions = _ancestry(index, named | (versions & young))
    needed = kept_versions | set(kept_moves) | _files(home, kept_versions & set(modified))
    unreached = set(modified) - needed
    return _Plan(
        blobs=_in_order(home.blobs, unreached - young, versions, unreached & young),
        versions=tuple(sorted(versions - kept_versions)),
        moves=expired_moves,
        in_grace=tuple(sorted(unreached & young)),
    )


def _moves(
    index: Index, now: datetime, reflog_s: float, young: set[Digest]
) -> tuple[dict[Digest, set[Digest]], tuple[Digest, ...]]:
    """Records to keep, with the versions that they keep; records to forget."""
    kept: dict[Digest, set[Digest]] = {}
    expired: list[Digest] = []
    history: dict[tuple[str, str], list[tuple[bool, Digest, set[Digest]]]] = {}
    for current, name, tag, entry in index.moves():
        is_tip = current is not None and entry.new == current.digest
        recent = (now - entry.time).total_seconds() <= reflog_s or entry.record in young
        versions = {digest for digest in (entry.old, entry.new) if recent and digest is not None}
        history.setdefault((name, tag), []).append((recent or is_tip, entry.record, versions))
    for moves in history.values():
        # Only a beginning is forgotten: a chain without its end would bring back names.
        first = next((at for at, (keep, _, _) in enumerate(moves) if keep), len(moves))
        expired.extend(record for _, record, _ in moves[:first])
        kept.update((record, versions) for _, record, versions in moves[first:])
    return kept, tuple(expired)


def _ancestry(index: Index, roots: Iterable[Digest]) -> set[Digest]:
    parents: dict[Digest, list[Digest]] = {}
    for edge in index.lineage():
        parents.setdefault(edge.child, []).append(edge.parent)
    found: set[Digest] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest not in found:
            found.add(digest)
            waiting.extend(parents.get(digest, ()))
    return found


def _files(home: Home, versions: Iterable[Digest]) -> set[Digest]:
    """Config and files of these versions."""
    found: set[Digest] = set()
    for version in sorted(versions):
        blobs = home.index.blobs(version)
        if not blobs:
            raise StoreError(
                "the index does not know this version, nothing was removed",
                where=str(version),
                hint="Run adaptrix reindex, then gc again.",
                code="stale_index",
            )
        found |= {blob.digest for blob in blobs}
    return found


def _in_order(
    blobs: DiskStore, digests: set[Digest], versions: set[Digest], in_grace: set[Digest]
) -> tuple[Digest, ...]:
    """Manifests before their files, and records oldest first.

    Whenever a crash cuts this short, no manifest lacks a file, and no chain of records
    lacks its end. A record waits for those before it that are still too young.
    """
    records = {digest: record for digest in digests if (record := _record(blobs, digest))}
    depths: dict[Digest, int] = {}
    for digest in records:
        chain = [digest]
        while (previous := records[chain[-1]].previous) in records and previous is not None:
            chain.append(previous)
        if records[chain[-1]].previous not in in_grace:
            depths[digest] = len(chain)
    manifests = sorted(digests & versions)
    rest = sorted(digests - versions - set(records))
    return (*sorted(depths, key=lambda digest: (depths[digest], digest)), *manifests, *rest)


def _record(blobs: DiskStore, digest: Digest) -> ReferenceRecord | None:
    try:
        if blobs.size(digest) > MAX_RECORD_BYTES:
            return None
        return ReferenceRecord.parse(blobs.read(digest))
    except AdaptrixError:
        return None


def _remove(blobs: DiskStore, digest: Digest, before_s: float) -> bool:
    """Remove a blob unless it was used again after ``before_s``."""
    place = blobs.place(digest)
    aside = blobs.temporary / f"gc-{os.getpid()}-{secrets.token_hex(4)}"
    with translated(place):
        if place.lstat().st_mtime > before_s:
            return False
        place.rename(aside)
        if aside.lstat().st_mtime > before_s:
            aside.rename(place)
            return False
        aside.unlink()
    return True


def _modified(blobs: DiskStore, digest: Digest) -> float:
    found = blobs.status(digest)
    return found.st_mtime if found else 0.0


def _now(home: Home) -> float:
    """What the file system says that time it is."""
    if home.read_only:
        return datetime.now(UTC).timestamp()
    probe = home.blobs.temporary / f"now-{os.getpid()}-{secrets.token_hex(4)}"
    with translated(probe):
        probe.touch(exist_ok=False)
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()
