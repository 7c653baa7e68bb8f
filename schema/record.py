"""What a manifest says of an adapter beyond its files. Frozen; written by ``manifest``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptrix.schema.adapter import CARRIED, Adapter, ScaleRule
from adaptrix.schema.fields import DigestField, FloatText
from adaptrix.schema.report import Fidelity, Verdict

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRecord:
    """One adapted module: shapes, rank and effective scale."""

    path: str
    kind: str
    in_features: int
    out_features: int
    rank: int
    alpha: FloatText
    scale: FloatText
    rule: ScaleRule


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """The base model: declared name and revision, digest of its config.json when known."""

    name: str = ""
    revision: str = ""
    config_digest: DigestField | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that was read, as it was at the source."""

    path: str
    digest: DigestField
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """Where it was pulled from.

    Attributes:
        kind: ``hub``, ``local``, ``oci`` or ``composed``.
        repository: ``org/repo`` on a hub; empty for local files, so that the same
            adapter has the same digest on every machine.
        commit: 40-digit commit on a hub, else empty.
        files: Files that were read, sorted by path.
    """

    kind: str
    repository: str = ""
    commit: str = ""
    files: tuple[SourceFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRecord:
    """How the source was read: format, naming, and what said so."""

    format: str
    layout: str
    method: str
    tool: str
    fidelity: Fidelity
    verdict: Verdict
    confidence: FloatText
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRecord:
    """A version that this one descends from.

    Attributes:
        digest: Digest of the parent's manifest.
        role: ``pulled_over`` (an earlier state of the same upstream), ``composed_from``,
            ``rebased_from`` (the same composition of earlier parents).
        weight: Weight in a composition, else None.
        name: Reference as the user wrote it.
    """

    digest: DigestField
    role: str
    weight: FloatText | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecord:
    """The ``adaptrix`` object of a version's config blob.

    Attributes:
        tensors_digest: Digest of the canonical tensors.
        family: transformers' ``model_type`` or ``""``.
        method: ``lora``, ``rslora`` or ``dora``.
        parameters: Elements in all tensors.
        dtypes: Distinct dtypes, sorted.
        modules: Adapted modules, sorted by path.
        base: The base model.
        source: Where it came from.
        conversion: How it was read; None for a composition.
        recipe: For a composition: its recipe document (see ``schema.recipe``).
        parents: Versions it descends from.
        description, domain, training_data, license: As given by the user, or the card.
        capabilities: Free words, in the order given.
        replaced: Parameters of the base that the adapter replaces outright.
        version: Version of this document.
    """

    tensors_digest: DigestField
    family: str
    method: str
    parameters: int
    dtypes: tuple[str, ...]
    modules: tuple[ModuleRecord, ...]
    base: BaseRecord
    source: SourceRecord
    conversion: ConversionRecord | None = None
    recipe: Mapping[str, Any] | None = None
    parents: tuple[ParentRecord, ...] = ()
    description: str = ""
    domain: str = ""
    training_data: str = ""
    license: str = ""
    capabilities: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    version: int = field(default=RECORD_VERSION)

    @property
    def verdict(self) -> Verdict:
        """Verdict of the conversion; a composition that failed would not be here."""
        return self.conversion.verdict if self.conversion is not None else Verdict.PASS


def module_records(adapter: Adapter) -> tuple[ModuleRecord, ...]:
    """One record per adapted module of ``adapter``."""
    if adapter.carried is not None:
        return tuple(
            ModuleRecord(
                path=path,
                kind=CARRIED,
                in_features=0,
                out_features=0,
                rank=0,
                alpha=0.0,
                scale=1.0,
                rule=ScaleRule.ABSOLUTE,
            )
            for path in adapter.carried.paths
        )
    return tuple(
        ModuleRecord(
            path=module.path,
            kind=module.kind,
            in_features=module.in_features,
            out_features=module.out_features,
            rank=module.rank,
            alpha=module.scale.alpha,
            scale=module.scale.value,
            rule=module.scale.rule,
        )
        for module in adapter.modules
    )
