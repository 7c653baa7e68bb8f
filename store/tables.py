"""The index's tables. Rows stay in this room; ``store.entries`` is what others see."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import Index
from sqlmodel import Field, SQLModel


class VersionTable(SQLModel, table=True):
    """One row per manifest."""

    __tablename__: ClassVar[str] = "versions"

    sequence: int | None = Field(default=None, primary_key=True)
    digest: str = Field(index=True, unique=True)
    manifest_bytes: int
    tensors_digest: str = Field(index=True)
    family: str
    method: str
    format: str
    layout: str
    base: str = Field(index=True)
    base_revision: str
    ranks: str
    targets: str
    modules: int
    parameters: int
    size_bytes: int
    fidelity: str
    verdict: str
    license: str
    domain: str
    training_data: str
    description: str
    capabilities: str
    source_kind: str
    source_repository: str = Field(index=True)
    source_commit: str
    source_key: str = Field(index=True)


class BlobTable(SQLModel, table=True):
    """The blobs that a manifest names: position 0 is its config."""

    __tablename__: ClassVar[str] = "version_blobs"

    version: str = Field(primary_key=True)
    position: int = Field(primary_key=True)
    digest: str = Field(index=True)
    size_bytes: int
    path: str


class ParentTable(SQLModel, table=True):
    """Lineage."""

    __tablename__: ClassVar[str] = "parents"

    child: str = Field(primary_key=True)
    position: int = Field(primary_key=True)
    parent: str = Field(index=True)
    role: str
    weight: float | None
    name: str


class ReferenceTable(SQLModel, table=True):
    """Names that exist now."""

    __tablename__: ClassVar[str] = "references"

    name: str = Field(primary_key=True)
    tag: str = Field(primary_key=True)
    digest: str = Field(index=True)


class ReflogTable(SQLModel, table=True):
    """Every move of every name; one row per record blob."""

    __tablename__: ClassVar[str] = "reflog"
    __table_args__: ClassVar[tuple[Index, ...]] = (Index("moves", "name", "tag", "time"),)

    sequence: int | None = Field(default=None, primary_key=True)
    name: str
    tag: str
    old: str | None
    new: str | None
    reason: str
    time: str = Field(index=True)
    record: str


class SignatureTable(SQLModel, table=True):
    """Energies of a version's modules: computed when first asked for, kept for the next time."""

    __tablename__: ClassVar[str] = "signatures"

    digest: str = Field(primary_key=True)
    energies: str


TABLES = (VersionTable, BlobTable, ParentTable, ReferenceTable, ReflogTable, SignatureTable)
