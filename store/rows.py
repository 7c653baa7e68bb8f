"""Between rows and values: nothing else in the room knows both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeAlias

from adaptrix.schema import media_types
from adaptrix.schema.canonical import canonical_json
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest
from adaptrix.store.entries import LineageEdge, ReferenceRow, ReflogEntry, VersionEntry
from adaptrix.store.tables import (
    ParentTable,
    ReferenceTable,
    ReflogTable,
    VersionTable,
)

Row: TypeAlias = "dict[str, Any]"
"""Values by column. Inserted as they stand: objects of SQLModel would triple the time."""


def source_key(files: Iterable[Digest]) -> str:
    """One text for a set of source files, whatever their names and order."""
    return str(Digest.of(canonical_json(sorted({str(digest) for digest in files}))))


def reference_of(row: ReferenceTable) -> ReferenceRow:
    """A name and its target."""
    return ReferenceRow(name=row.name, tag=row.tag, digest=Digest.parse(row.digest))


def move_of(row: ReflogTable) -> ReflogEntry:
    """A line of the reflog."""
    return ReflogEntry(
        old=Digest.parse(row.old) if row.old else None,
        new=Digest.parse(row.new) if row.new else None,
        reason=row.reason,
        time=datetime.fromisoformat(row.time),
        record=Digest.parse(row.record),
    )


def edge_of(row: ParentTable) -> LineageEdge:
    """A line of descent."""
    return LineageEdge(
        child=Digest.parse(row.child),
        parent=Digest.parse(row.parent),
        role=row.role,
        weight=row.weight,
        name=row.name,
    )


def entry_of(row: VersionTable) -> VersionEntry:
    """A version."""
    return VersionEntry(
        sequence=row.sequence or 0,
        digest=Digest.parse(row.digest),
        tensors_digest=Digest.parse(row.tensors_digest),
        ranks=tuple(json.loads(row.ranks)),
        capabilities=tuple(json.loads(row.capabilities)),
        **{name: getattr(row, name) for name in _PLAIN},
    )


_PLAIN = (
    "family", "method", "format", "layout", "base", "base_revision", "modules", "parameters",
    "size_bytes", "fidelity", "verdict", "license", "domain", "training_data", "description",
    "source_kind", "source_repository", "source_commit",
)  # fmt: skip


def version_row(manifest: Manifest, digest: Digest, manifest_bytes: int) -> Row:
    """The row of a version."""
    record, conversion = manifest.record, manifest.record.conversion
    return {
        "digest": str(digest),
        "manifest_bytes": manifest_bytes,
        "tensors_digest": str(record.tensors_digest),
        "family": record.family,
        "method": record.method,
        "format": conversion.format if conversion else "composed",
        "layout": conversion.layout if conversion else "",
        "base": record.base.name,
        "base_revision": record.base.revision,
        "ranks": json.dumps(sorted({module.rank for module in record.modules})),
        "targets": json.dumps(
            sorted({module.path.rpartition(".")[2] for module in record.modules})
        ),
        "modules": len(record.modules),
        "parameters": record.parameters,
        "size_bytes": sum(layer.size_bytes for layer in manifest.layers),
        "fidelity": conversion.fidelity.value if conversion else "",
        "verdict": record.verdict.value,
        "license": record.license,
        "domain": record.domain,
        "training_data": record.training_data,
        "description": record.description,
        "capabilities": json.dumps(record.capabilities, ensure_ascii=False),
        "source_kind": record.source.kind,
        "source_repository": record.source.repository,
        "source_commit": record.source.commit,
        "source_key": source_key(file.digest for file in record.source.files),
    }


def blob_rows(manifest: Manifest, digest: Digest, config: Descriptor) -> list[Row]:
    """The rows of the blobs that a version needs; ``config`` as its manifest names it."""
    needed = (config, *manifest.layers)
    return [
        {
            "version": str(digest),
            "position": position,
            "digest": str(blob.digest),
            "size_bytes": blob.size_bytes,
            "path": blob.annotations.get(media_types.FILEPATH, ""),
        }
        for position, blob in enumerate(needed)
    ]


def parent_rows(manifest: Manifest, digest: Digest) -> list[Row]:
    """The rows of a version's lineage."""
    return [
        {
            "child": str(digest),
            "position": position,
            "parent": str(parent.digest),
            "role": parent.role,
            "weight": parent.weight,
            "name": parent.name,
        }
        for position, parent in enumerate(manifest.record.parents)
    ]
