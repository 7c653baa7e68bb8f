"""The past: what a version descends from, every move of every name, and the way back."""

from __future__ import annotations

from adaptrix.registry.reports import LogRow, MoveRow
from adaptrix.registry.resolve import resolve, target
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import NotFound, UsageError
from adaptrix.schema.record import AdapterRecord, ParentRecord
from adaptrix.store.entries import ReflogEntry
from adaptrix.store.home import Home

_SCHEMES = {"hub": "hf:", "oci": "oci://"}


def log(home: Home, text: str) -> tuple[LogRow, ...]:
    """See :meth:`Registry.log`: every version comes before those that it descends from."""
    reference, tip = resolve(home, text)
    records = _records(home, tip)
    reached: dict[Digest, tuple[int, ParentRecord | None]] = {tip: (0, None)}
    rows = []
    for digest in _in_order(records, tip):
        depth, link = reached[digest]
        record = records[digest]
        here = tuple(p for p in record.parents if p.digest in records)
        for parent in here:
            reached.setdefault(parent.digest, (depth + 1, parent))
        rows.append(
            LogRow(
                digest=digest,
                name=link.name if link else reference,
                role=link.role if link else "tip",
                depth=depth,
                weight=link.weight if link else None,
                source=_source(record),
                description=record.description,
                parents=tuple(parent.digest for parent in here),
            )
        )
    return tuple(rows)


def reflog(home: Home, text: str | None) -> tuple[MoveRow, ...]:
    """See :meth:`Registry.reflog`.

    Raises:
        NotFound: the name never moved.
    """
    if text is not None:
        reference, moves = _moves(home, text)
        return tuple(_move(reference, entry) for entry in moves)
    every = home.index.moves()
    return tuple(_move(f"{name}:{tag}", entry) for _, name, tag, entry in reversed(every))


def restore(home: Home, text: str, version: str, *, dry_run: bool) -> MoveRow:
    """See :meth:`Registry.restore`.

    Raises:
        NotFound: the name never moved, or the version is gone.
        UsageError: it did not exist before its last move.
    """
    name, tag = target(text)
    reference, moves = _moves(home, text)
    current = home.references.get(name, tag)
    new = resolve(home, version)[1] if version else moves[0].old
    if new is None:
        raise UsageError(
            "it did not exist before its last move",
            where=reference,
            hint=f"To remove the name: adaptrix rm {reference}",
        )
    home.manifest(new)  # NotFound when it was collected
    reason = f"restore {version or 'what was before'}"
    if not dry_run and current != new:
        home.references.set(name, tag, new, expected=current, reason=reason)
    latest = home.references.log(name, tag)[0]
    return MoveRow(
        reference=reference, old=current, new=new, reason=reason, time=latest.time.isoformat()
    )


def _moves(home: Home, text: str) -> tuple[str, list[ReflogEntry]]:
    """The name in full, and its moves, newest first."""
    name, tag = target(text)
    moves = home.references.log(name, tag)
    if not moves:
        raise NotFound(
            "no such name, and there never was",
            where=f"{name}:{tag}",
            hint="Names and their moves: adaptrix reflog",
        )
    return f"{name}:{tag}", moves


def _move(reference: str, entry: ReflogEntry) -> MoveRow:
    return MoveRow(
        reference=reference,
        old=entry.old,
        new=entry.new,
        reason=entry.reason,
        time=entry.time.isoformat(),
    )


def _records(home: Home, tip: Digest) -> dict[Digest, AdapterRecord]:
    """The version and its ancestors, as far as they are here."""
    found: dict[Digest, AdapterRecord] = {}
    waiting = [tip]
    while waiting:
        digest = waiting.pop()
        if digest not in found and home.blobs.has(digest):
            found[digest] = home.manifest(digest).record
            waiting += [parent.digest for parent in found[digest].parents]
    return found


def _in_order(records: dict[Digest, AdapterRecord], tip: Digest) -> list[Digest]:
    """Children before parents, first parents first (Kahn's algorithm)."""
    waiting_for: dict[Digest, int] = dict.fromkeys(records, 0)
    for record in records.values():
        for parent in {p.digest for p in record.parents} & records.keys():
            waiting_for[parent] += 1
    ready, order = [tip], []
    while ready:
        digest = ready.pop()
        order.append(digest)
        for parent in reversed(dict.fromkeys(p.digest for p in records[digest].parents)):
            if parent in records:
                waiting_for[parent] -= 1
                if not waiting_for[parent]:
                    ready.append(parent)
    return order


def _source(record: AdapterRecord) -> str:
    source = record.source
    if not source.commit:
        return source.kind
    return f"{_SCHEMES.get(source.kind, '')}{source.repository}@{source.commit[:12]}"
