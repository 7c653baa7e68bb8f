"""fsck with all that the registry knows: claims of manifests, and remotes to repair from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from adaptrix.convert.reading import ReadOptions
from adaptrix.hub.location import RemoteKind
from adaptrix.hub.versions import VersionRemote
from adaptrix.registry.fetching import BlobFetch
from adaptrix.registry.remotes import Remotes
from adaptrix.registry.settings import Settings
from adaptrix.registry.verifying import verify_manifest
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.report import Problem, verdict_of
from adaptrix.store.fsck import FsckReport
from adaptrix.store.home import Home

MAX_REMOTE_NAMES = 200
"""Names of a remote that are asked when no name here leads to the blob."""


def fsck(
    home: Home, settings: Settings, *, quick: bool, sample: float, full: bool, repair: bool
) -> FsckReport:
    """See :meth:`Registry.fsck`."""
    report = home.fsck(quick=quick, sample=sample, repair=repair)
    if repair:
        repaired = _repair(home, settings)
        if repaired:
            after = home.fsck(quick=True, repair=True)
            report = replace(
                after,
                hashed_bytes=report.hashed_bytes,
                quarantined=report.quarantined,
                repaired=repaired,
            )
    if full:
        problems, claims = _claims(home)
        found = (*report.problems, *problems)
        report = replace(report, problems=found, verdict=verdict_of(found), claims=claims)
    return report


def _claims(home: Home) -> tuple[list[Problem], int]:
    """Compute what every version says of itself again."""
    problems: list[Problem] = []
    claims = 0
    for entry in home.versions():
        where = entry.digest.short
        try:
            manifest = home.manifest(entry.digest)
            report = verify_manifest(home, manifest, entry.digest, where, ReadOptions())
        except AdaptrixError as error:
            problems.append(Problem.of("invalid_manifest", str(error), where=str(entry.digest)))
            continue
        claims += len(report.checks)
        problems += [
            replace(problem, where=f"{where} {problem.where}")
            for problem in report.problems
            if problem.code == "claim_broken"
        ]
    return problems, claims


def _repair(home: Home, settings: Settings) -> tuple[Digest, ...]:
    """Fetch what the index knows of and the store lacks, from wherever it is."""
    wanted = dict(_missing(home))
    if not wanted:
        return ()
    fetched: list[Digest] = []
    for location in Remotes(settings).all().values():
        if location.kind is RemoteKind.HUB:
            continue
        with suppress(AdaptrixError):  # a remote that is away repairs nothing
            remote = Remotes(settings).open(location)
            try:
                fetched += _from_remote(home, remote, wanted)
            finally:
                remote.close()
    return tuple(fetched)


def _missing(home: Home) -> Iterator[tuple[Digest, tuple[Digest, Descriptor]]]:
    """Blobs that are not here, with a version that needs each."""
    for entry in home.versions():
        manifest_missing = not home.blobs.has(entry.digest)
        if manifest_missing:
            yield entry.digest, (entry.digest, _descriptor(entry.digest, -1))
        for blob in home.index.blobs(entry.digest):
            if not home.blobs.has(blob.digest):
                yield blob.digest, (entry.digest, _descriptor(blob.digest, blob.size_bytes))


def _descriptor(digest: Digest, size_bytes: int) -> Descriptor:
    return Descriptor(media_type="", digest=digest, size_bytes=size_bytes)


def _from_remote(
    home: Home, remote: VersionRemote, wanted: dict[Digest, tuple[Digest, Descriptor]]
) -> Iterator[Digest]:
    there: tuple[str, ...] = ()
    with suppress(AdaptrixError):
        there = remote.names()[:MAX_REMOTE_NAMES]
    for digest, (version, blob) in list(wanted.items()):
        for name in dict.fromkeys((*_names(home, version), *there)):
            if _fetch(home, remote, name, blob):
                del wanted[digest]
                yield digest
                break


def _names(home: Home, version: Digest) -> Iterator[str]:
    """Names of a version and of what descends from it: ancestors travel with them."""
    waiting, seen = [version], set()
    while waiting:
        digest = waiting.pop(0)
        if digest not in seen:
            seen.add(digest)
            yield from (row.name for row in home.index.named(digest))
            waiting += [edge.child for edge in home.children(digest)]


def _fetch(home: Home, remote: VersionRemote, name: str, blob: Descriptor) -> bool:
    with suppress(AdaptrixError):
        if blob.size_bytes < 0:
            home.blobs.put(remote.manifest(name, blob.digest))
            return True
        if remote.has_blob(name, blob):
            BlobFetch(home, remote, name).bring(blob)
            return True
    return False
