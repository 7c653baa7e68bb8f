"""Everything that can be known from the blobs alone: versions, names, reflog, lineage.

Every small JSON blob is read and verified; what it is, its content says. A blob that some
manifest names as one of its files is a user's file and no record, nor a manifest that no
record names, whatever it looks like: otherwise a pulled README could rename adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from adaptrix.schema import media_types
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError, FormatError, InvalidReference
from adaptrix.schema.manifest import MAX_MANIFEST_BYTES, Manifest, json_object
from adaptrix.schema.report import Problem
from adaptrix.store.blobs import BlobStore
from adaptrix.store.references import ReferenceRecord, entry_of_record
from adaptrix.store.verifier import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from adaptrix.store.transaction import IndexTransaction

Chains = Mapping[tuple[str, str], list[tuple[Digest, ReferenceRecord]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVersion:
    """A manifest among the blobs, with what the index wants to know of it."""

    digest: Digest
    manifest: Manifest
    manifest_bytes: int
    config: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was found.

    Attributes:
        versions: Manifests whose config is there and valid.
        chains: Moves of each name, oldest first.
        problems: What could not be used, and why.
    """

    versions: tuple[FoundVersion, ...]
    chains: Chains
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexReport:
    """What a rebuilt index holds.

    Attributes:
        versions: Number of versions.
        references: Number of names.
        moves: Number of lines in the reflog.
        problems: What could not be used, and why.
    """

    versions: int
    references: int
    moves: int
    problems: tuple[Problem, ...] = field(default=())


def scan(blobs: BlobStore) -> Scan:
    """Read all small JSON blobs of a store."""
    documents, problems = _documents(blobs)
    manifests = {d: doc for d, doc in documents.items() if _is_manifest(doc)}
    files = _files(manifests)
    records = {
        digest: ReferenceRecord.parse(blobs.read(digest))
        for digest, document in documents.items()
        if digest not in files and _is_record(blobs, digest, document)
    }
    named = {record.digest for record in records.values()}
    versions: list[FoundVersion] = []
    for digest, document in manifests.items():
        if digest in files and digest not in named:
            continue
        try:
            versions.append(read_version(blobs, digest, document))
        except AdaptrixError as error:
            problems.append(Problem.of("invalid_manifest", str(error), where=str(digest)))
    return Scan(
        versions=_by_age(versions, records.values()),
        chains=chains(records),
        problems=tuple(problems),
    )


def fill(transaction: IndexTransaction, found: Scan) -> ReindexReport:
    """Write what was found into an empty index."""
    known = set()
    for version in found.versions:
        known.add(version.digest)
        transaction.add(
            version.manifest,
            digest=version.digest,
            manifest_bytes=version.manifest_bytes,
            config=version.config,
        )
    problems = list(found.problems)
    names = 0
    for (name, tag), chain in sorted(found.chains.items()):
        old: Digest | None = None
        for digest, record in chain:
            transaction.move(name, tag, entry_of_record(record, digest, old=old))
            old = record.digest
        names += old is not None
        if old is not None and old not in known:
            where = f"{name}:{tag}"
            problems.append(Problem.of("dangling_reference", f"no manifest {old}", where=where))
    return ReindexReport(
        versions=len(known),
        references=names,
        moves=sum(map(len, found.chains.values())),
        problems=tuple(problems),
    )


def chains(records: Mapping[Digest, ReferenceRecord]) -> Chains:
    """Moves of each name, oldest first.

    Where a crash left a record of a move that never happened, two records follow the same
    one: the longer chain is what happened, the later one among equals.
    """
    followed = set()
    for record in records.values():
        before = records.get(record.previous) if record.previous else None
        if before is not None and _key(before) == _key(record):
            followed.add(record.previous)
    best: dict[tuple[str, str], list[tuple[Digest, ReferenceRecord]]] = {}
    for tip in sorted(set(records) - followed):
        chain = _chain(records, tip)
        key = _key(records[tip])
        if key not in best or _weight(chain) > _weight(best[key]):
            best[key] = chain
    return best


def read_version(
    blobs: BlobStore, digest: Digest, document: Mapping[str, Any] | None = None
) -> FoundVersion:
    """Read and check the version with this manifest.

    Raises:
        FormatError: no valid manifest.
        StoreError: manifest or config are missing.
        IntegrityError: one of them is damaged.
    """
    data = blobs.read(digest)
    if document is None:
        document = json_object(data, f"blob {digest}")
    try:
        config = Digest.parse(document["config"]["digest"])
        media_type = str(document["config"]["mediaType"])
    except (KeyError, TypeError, AttributeError, InvalidReference) as error:
        raise FormatError(f"no config: {error!r}", where=f"manifest {digest}") from error
    config_bytes = blobs.read(config)
    return FoundVersion(
        digest=digest,
        manifest=Manifest.parse(data, config_bytes),
        manifest_bytes=len(data),
        config=Descriptor(media_type=media_type, digest=config, size_bytes=len(config_bytes)),
    )


def _documents(blobs: BlobStore) -> tuple[dict[Digest, dict[str, Any]], list[Problem]]:
    documents: dict[Digest, dict[str, Any]] = {}
    problems: list[Problem] = []
    for digest in blobs.digests():
        try:
            if blobs.size(digest) > MAX_MANIFEST_BYTES or not _begins_like_json(blobs, digest):
                continue
            documents[digest] = json_object(blobs.read(digest), f"blob {digest}")
        except FormatError:
            continue  # a user's file
        except AdaptrixError as error:
            problems.append(Problem.of("corrupt_blob", str(error), where=str(digest)))
    return documents, problems


def _begins_like_json(blobs: BlobStore, digest: Digest) -> bool:
    with blobs.open(digest) as stream:
        return stream.read(1) == b"{"


def _is_manifest(document: Mapping[str, Any]) -> bool:
    return (
        document.get("mediaType") == media_types.MANIFEST
        and document.get("artifactType") == media_types.MODEL
    )


def _is_record(blobs: BlobStore, digest: Digest, document: Mapping[str, Any]) -> bool:
    if document.get("mediaType") != media_types.REFERENCE_RECORD:
        return False
    if blobs.size(digest) > MAX_RECORD_BYTES:
        return False
    try:
        ReferenceRecord.parse(blobs.read(digest))
    except AdaptrixError:
        return False
    return True


def _files(manifests: Mapping[Digest, Mapping[str, Any]]) -> set[Digest]:
    """Digests that some manifest names as its config or one of its files."""
    found: set[Digest] = set()
    for document in manifests.values():
        layers = document.get("layers")
        entries = [document.get("config"), *(layers if isinstance(layers, list) else [])]
        for entry in entries:
            try:
                found.add(Digest.parse(entry["digest"]))
            except (KeyError, TypeError, AttributeError, InvalidReference):
                continue
    return found


def _by_age(
    versions: list[FoundVersion], records: Iterable[ReferenceRecord]
) -> tuple[FoundVersion, ...]:
    """Oldest first, by the first move to each; unnamed ones last."""
    first: dict[Digest, datetime] = {}
    for record in records:
        if record.digest is not None:
            first[record.digest] = min(first.get(record.digest, record.time), record.time)
    return tuple(
        sorted(versions, key=lambda v: (v.digest not in first, first.get(v.digest), v.digest))
    )


def _key(record: ReferenceRecord) -> tuple[str, str]:
    return record.name, record.tag


def _chain(
    records: Mapping[Digest, ReferenceRecord], tip: Digest
) -> list[tuple[Digest, ReferenceRecord]]:
    found = [(tip, records[tip])]
    while True:
        previous = found[-1][1].previous
        if previous is None or previous not in records:
            break
        if _key(records[previous]) != _key(records[tip]):
            break
        found.append((previous, records[previous]))
    return found[::-1]


def _weight(chain: list[tuple[Digest, ReferenceRecord]]) -> tuple[int, datetime, str]:
    digest, record = chain[-1]
    return len(chain), record.time, digest.hex
