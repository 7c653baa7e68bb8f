"""Looking at everything that the store promises, and saying what does not hold."""

from __future__ import annotations

import os
import random
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.report import Problem, Verdict, verdict_of
from adaptrix.store.faults import PlantedLink, StoreReadOnly, translated
from adaptrix.store.layout import ensure_layout, index_bytes, is_layout, read_index
from adaptrix.store.rebuild import Scan, scan

if TYPE_CHECKING:
    from adaptrix.store.disk import DiskStore
    from adaptrix.store.home import Home
    from adaptrix.store.index import Index

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FsckReport:
    """What was looked at, and what was found.

    Attributes:
        verdict: PASS when nothing is broken.
        blobs: Blobs that were looked at.
        hashed_bytes: Bytes that were read and hashed; 0 for a quick check.
        versions: Versions that were looked at.
        references: Names that were looked at.
        problems: What does not hold.
        quarantined: Damaged blobs that were moved aside.
        repaired: Blobs that were fetched again from a remote.
        claims: Claims of manifests that were computed again.
    """

    verdict: Verdict
    blobs: int
    hashed_bytes: int
    versions: int
    references: int
    problems: tuple[Problem, ...]
    quarantined: tuple[Digest, ...] = ()
    repaired: tuple[Digest, ...] = ()
    claims: int = 0


def check(
    home: Home,
    *,
    quick: bool = False,
    sample: float = 1.0,
    repair: bool = False,
    progress: Progress | None = None,
) -> FsckReport:
    """Check a home.

    Args:
        home: The home.
        quick: Names, sizes and structure only; bytes are not hashed.
        sample: Share of the blobs that are hashed, chosen anew each time.
        repair: Move damaged blobs to ``quarantine/`` and write derived files anew.
        progress: Called with the number of bytes after each block hashed.

    Raises:
        StoreReadOnly: a repair was asked for in a home that cannot be written.
        StoreBusy: a collection is going on.
    """
    if repair and home.read_only:
        raise StoreReadOnly(where=str(home.path))
    with home.lease():
        sizes, problems, damaged, hashed = _blobs(home.blobs, 0.0 if quick else sample, progress)
        quarantined = [_quarantine(home, digest) for digest in damaged] if repair else []
        for digest in quarantined:
            sizes.pop(digest, None)
        found = scan(home.blobs)
        problems += [p for p in found.problems if p.code != "corrupt_blob"]
        problems += _versions(found, sizes)
        problems += _index(home, found, quick=quick)
        problems += _layout(home, repair=repair)
    return FsckReport(
        verdict=verdict_of(problems),
        blobs=len(sizes),
        hashed_bytes=hashed,
        versions=len(found.versions),
        references=len(home.references.all()),
        problems=tuple(problems),
        quarantined=tuple(quarantined),
    )


def _blobs(
    blobs: DiskStore, sample: float, progress: Progress | None
) -> tuple[dict[Digest, int], list[Problem], list[Digest], int]:
    sizes: dict[Digest, int] = {}
    problems: list[Problem] = []
    damaged: list[Digest] = []
    hashed = 0
    known = set(blobs.digests())
    for name in blobs.names():
        try:
            digest = Digest(name)
            size_bytes = blobs.size(digest)
        except PlantedLink as error:
            problems.append(Problem.of("planted_link", error.message, where=error.where))
            continue
        except AdaptrixError:
            problems.append(Problem.of("foreign_file", "not the name of a blob", where=name))
            continue
        if digest not in known:
            continue
        sizes[digest] = size_bytes
        if sample < 1 and random.random() >= sample:  # noqa: S311 - no secret
            continue
        actual = blobs.rehash(digest, progress)
        hashed += size_bytes
        if actual != digest:
            message = f"holds {actual} ({size_bytes} bytes)"
            problems.append(Problem.of("corrupt_blob", message, where=str(digest)))
            damaged.append(digest)
    return sizes, problems, damaged, hashed


def _versions(found: Scan, sizes: dict[Digest, int]) -> Iterator[Problem]:
    known = {version.digest for version in found.versions}
    for version in found.versions:
        where = str(version.digest)
        for blob in (version.config, *version.manifest.layers):
            if blob.digest not in sizes:
                yield Problem.of("missing_blob", f"no blob {blob.digest}", where=where)
            elif sizes[blob.digest] != blob.size_bytes:
                message = (
                    f"blob {blob.digest}: expected {blob.size_bytes} bytes, "
                    f"got {sizes[blob.digest]}"
                )
                yield Problem.of("corrupt_blob", message, where=where)
        for parent in version.manifest.record.parents:
            if parent.digest not in known:
                message = f"parent {parent.digest} is not here"
                yield Problem.of("missing_parent", message, where=where)


def _index(home: Home, found: Scan, *, quick: bool) -> Iterator[Problem]:
    """Compare what the index says with what the blobs say."""
    index = home.index
    for reason in index.database.integrity(quick=quick):
        yield Problem.of("stale_index", reason, where=index.database.path.name)
    stored = {version.digest for version in found.versions}
    indexed = {entry.digest for entry in index.versions()}
    needed = _needed(index, found)
    for digest in sorted(stored - indexed):
        if digest in needed:
            yield Problem.of("stale_index", "this version is not in the index", where=str(digest))
        else:
            message = "stored, and never finished or named; gc takes it when it is old"
            yield Problem.of("unfinished_version", message, where=str(digest))
    for digest in sorted(indexed - stored):
        yield Problem.of("missing_blob", "its manifest or config is lost", where=str(digest))
    for row in index.references():
        if row.digest not in stored:
            yield Problem.of("dangling_reference", f"no manifest {row.digest}", where=str(row))
    yield from _moves(home)


def _needed(index: Index, found: Scan) -> set[Digest]:
    """Versions that a name points to or pointed to, with all that they descend from."""
    parents = {v.digest: v.manifest.record.parents for v in found.versions}
    waiting = [row.digest for row in index.references()]
    for _, _, _, entry in index.moves():
        waiting += [digest for digest in (entry.old, entry.new) if digest is not None]
    needed: set[Digest] = set()
    while waiting:
        digest = waiting.pop()
        if digest not in needed:
            needed.add(digest)
            waiting += [parent.digest for parent in parents.get(digest, ())]
    return needed


def _moves(home: Home) -> Iterator[Problem]:
    current = {(row.name, row.tag): row.digest for row in home.index.references()}
    last: dict[tuple[str, str], Digest | None] = {}
    for _, name, tag, entry in home.index.moves():
        last[name, tag] = entry.new
        if not home.blobs.has(entry.record):
            message = f"the record {entry.record} of a move is lost"
            yield Problem.of("missing_blob", message, where=f"{name}:{tag}")
    for (name, tag), digest in last.items():
        if current.get((name, tag)) != digest:
            message = "the name and its reflog disagree"
            yield Problem.of("stale_index", message, where=f"{name}:{tag}")


def _layout(home: Home, *, repair: bool) -> Iterator[Problem]:
    wanted = index_bytes(*home.index.listing())
    valid = is_layout(home.path), read_index(home.path) == wanted
    if repair and not all(valid):
        ensure_layout(home.path)
        with home.index.writing() as transaction:
            home.references.relist(transaction)
        return
    if not valid[0]:
        yield Problem.of("invalid_layout", "missing or not valid", where="oci-layout")
    if not valid[1]:
        yield Problem.of("invalid_layout", "does not list what the index has", where="index.json")


def _quarantine(home: Home, digest: Digest) -> Digest:
    folder = home.path / "quarantine"
    with translated(folder):
        folder.mkdir(exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise PlantedLink(where=str(folder))
        unique = f"{digest.hex}-{os.getpid()}-{secrets.token_hex(4)}"
        home.blobs.place(digest).rename(folder / unique)
    return digest
