"""From a canonical adapter to a version in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from adaptrix.convert.writing import write_adapter
from adaptrix.schema import media_types
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest, file_descriptor
from adaptrix.schema.record import (
    AdapterRecord,
    BaseRecord,
    ConversionRecord,
    ParentRecord,
    SourceRecord,
    module_records,
)
from adaptrix.store.home import Home
from adaptrix.store.references import ReferenceConflict

CARD_PATH = "README.md"
_HISTORY = {"pulled_over", "rebased_from"}
ATTEMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a version says of itself beyond its tensors.

    Attributes:
        base_config: Digest of the configuration of the base that it was checked against.
    """

    source: SourceRecord
    conversion: ConversionRecord | None = None
    recipe: Mapping[str, Any] | None = None
    parents: tuple[ParentRecord, ...] = ()
    description: str = ""
    domain: str = ""
    training_data: str = ""
    license: str = ""
    capabilities: tuple[str, ...] = ()
    base_config: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiles:
    """The canonical files of an adapter, in the store.

    Attributes:
        layers: What the manifest names, sorted by path.
        tensors_digest: Digest of the tensors in them.
    """

    layers: tuple[Descriptor, ...]
    tensors_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """A version that a name points to now.

    Attributes:
        status: ``new``, ``updated``, or ``unchanged`` when the name pointed there already.
    """

    digest: Digest
    manifest: Manifest
    status: str


def publish(
    home: Home,
    adapter: Adapter,
    files: StoredFiles,
    provenance: Provenance,
    *,
    name: str,
    tag: str,
    reason: str,
) -> StoredVersion:
    """Write the manifest of an adapter whose files are stored, and point the name to it.

    When somebody else moves the name in between, the version is made again as a child of
    what it points to now.

    Raises:
        ReferenceConflict: the name was moved each of several times.
    """
    record = _record(adapter, files.tensors_digest, provenance)
    attempt = 0
    while True:
        attempt += 1
        current = home.references.get(name, tag)
        previous = home.manifest(current) if current is not None else None
        manifest = Manifest(record=_continued(record, previous, current), layers=files.layers)
        if current is not None and previous is not None and _same(manifest, previous):
            return StoredVersion(digest=current, manifest=previous, status="unchanged")
        digest = home.add_version(manifest)
        try:
            home.references.set(name, tag, digest, expected=current, reason=reason)
        except ReferenceConflict:
            if attempt == ATTEMPTS:
                raise
        else:
            return StoredVersion(
                digest=digest, manifest=manifest, status="updated" if current else "new"
            )


def _same(one: Manifest, other: Manifest) -> bool:
    return one.layers == other.layers and same_content(one.record, other.record)


def _continued(
    record: AdapterRecord, previous: Manifest | None, current: Digest | None
) -> AdapterRecord:
    """``record`` as a successor of what the name points to."""
    if previous is None or current is None:
        return record
    inherited = _inherit(record, previous.record)
    return _with_parent(inherited, previous.record, current)


def same_content(one: AdapterRecord, other: AdapterRecord) -> bool:
    """Whether two records say the same of the same files, lineage and commit aside."""
    return _without_history(one) == _without_history(other)


def _without_history(record: AdapterRecord) -> AdapterRecord:
    parents = tuple(parent for parent in record.parents if parent.role not in _HISTORY)
    # A new commit that leaves every file of the adapter as it was is no new version.
    return replace(record, parents=parents, source=replace(record.source, commit=""))


def _inherit(record: AdapterRecord, previous: AdapterRecord) -> AdapterRecord:
    """What the user said before holds until it is said anew."""
    if record.source.kind == "composed" or not _same_upstream(record, previous):
        return record
    return replace(
        record,
        description=record.description or previous.description,
        domain=record.domain or previous.domain,
        training_data=record.training_data or previous.training_data,
        license=record.license or previous.license,
        capabilities=record.capabilities or previous.capabilities,
    )


def _same_upstream(record: AdapterRecord, previous: AdapterRecord) -> bool:
    one, other = record.source, previous.source
    return (one.kind, one.repository) == (other.kind, other.repository)


def _with_parent(record: AdapterRecord, previous: AdapterRecord, current: Digest) -> AdapterRecord:
    if record.source.kind == "composed" or not _same_upstream(record, previous):
        return record
    parent = ParentRecord(digest=current, role="pulled_over")
    return replace(record, parents=(parent, *record.parents))


def write_files(home: Home, adapter: Adapter, card: str = "") -> tuple[Descriptor, ...]:
    """Write the canonical files; returns them as layers of a manifest.

    Raises:
        StoreError: they could not be written.
    """
    layers = []
    for file in write_adapter(adapter, "peft").files:
        with home.blobs.writer(expected_size=file.size_bytes, media_type=file.media_type) as sink:
            for chunk in file.chunks():
                sink.write(chunk)
        stored = sink.descriptor
        layers.append(file_descriptor(file.path, file.media_type, stored.digest, stored.size_bytes))
    if card:
        data = card.encode()
        digest = home.blobs.put(data)
        layers.append(file_descriptor(CARD_PATH, media_types.DOC_RAW, digest, len(data)))
    return tuple(sorted(layers, key=lambda layer: layer.annotations[media_types.FILEPATH]))


def _record(adapter: Adapter, digest: Digest, provenance: Provenance) -> AdapterRecord:
    tensors = adapter.tensors().values()
    return AdapterRecord(
        tensors_digest=digest,
        family=adapter.family,
        method=adapter.method,
        parameters=adapter.parameter_count,
        dtypes=tuple(sorted({tensor.dtype.long_name for tensor in tensors})),
        modules=module_records(adapter),
        base=BaseRecord(
            name=adapter.base_name,
            revision=adapter.base_revision,
            config_digest=provenance.base_config,
        ),
        source=provenance.source,
        conversion=provenance.conversion,
        recipe=provenance.recipe,
        parents=provenance.parents,
        description=provenance.description,
        domain=provenance.domain,
        training_data=provenance.training_data,
        license=provenance.license,
        capabilities=provenance.capabilities,
        replaced=tuple(item.parameter for item in adapter.replacements),
    )
