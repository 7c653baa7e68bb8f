"""What the index answers with: plain frozen values, so that no row ever leaves the room."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from adaptrix.schema.digest import Digest

INDEX_VERSION = 2
"""``PRAGMA user_version``: an index of another version is rebuilt from the blobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEntry:
    """One stored version, as the index describes it; its manifest says it in full.

    Attributes:
        sequence: Order of arrival in this home, ascending.
        digest: Digest of the manifest.
        tensors_digest: Digest of the canonical tensors.
        family: transformers' ``model_type`` or ``""``.
        method: ``lora``, ``rslora`` or ``dora``.
        format: Source format (``peft`` …), ``composed`` for a composition.
        layout: Source module naming.
        base: Declared base model.
        base_revision: Its revision or ``""``.
        ranks: Distinct ranks, ascending.
        modules: Number of adapted modules.
        parameters: Elements in all tensors.
        size_bytes: Sum of its files.
        fidelity: Fidelity of the conversion, ``""`` for a composition.
        verdict: Verdict of the conversion, PASS for a composition.
        license, domain, training_data, description: As in the manifest.
        capabilities: As in the manifest.
        source_kind, source_repository, source_commit: As in the manifest.
    """

    sequence: int
    digest: Digest
    tensors_digest: Digest
    family: str
    method: str
    format: str
    layout: str
    base: str
    base_revision: str
    ranks: tuple[int, ...]
    modules: int
    parameters: int
    size_bytes: int
    fidelity: str
    verdict: str
    license: str
    domain: str
    training_data: str
    description: str
    capabilities: tuple[str, ...]
    source_kind: str
    source_repository: str
    source_commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """A name and what it points to; printed as ``name:tag``."""

    name: str
    tag: str
    digest: Digest

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflogEntry:
    """One move of a reference.

    Attributes:
        old: Where it pointed; None when it did not exist.
        new: Where it points from then on; None when it was removed.
        reason: Why, in a few words.
        time: When, in UTC.
        record: Digest of the blob that records the move.
    """

    old: Digest | None
    new: Digest | None
    reason: str
    time: datetime
    record: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageEdge:
    """``child`` descends from ``parent``.

    Attributes:
        child: The descendant's digest.
        parent: The ancestor's digest.
        role: ``pulled_over`` or ``composed_from``.
        weight: Weight in a composition, else None.
        name: Reference of the parent as the user wrote it.
    """

    child: Digest
    parent: Digest
    role: str
    weight: float | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob that a version needs: its config or one of its files.

    Attributes:
        digest: Its digest.
        size_bytes: Its announced size.
        path: Path in the version; ``""`` for the config.
    """

    digest: Digest
    size_bytes: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A reference with its version; ``version`` is None when its manifest is lost."""

    reference: ReferenceRow
    version: VersionEntry | None
