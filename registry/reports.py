"""What the verbs return: frozen values that a command prints and ``--json`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from adaptrix.schema.adapter import Adapter
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.report import Fidelity, Inspection, Problem, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PullReport:
    """Outcome of a pull.

    Attributes:
        reference: ``name:tag`` that now points to the version.
        digest: Digest of its manifest; None for a dry run.
        tensors_digest: Digest of its tensors; None for a dry run.
        bytes: Bytes of its files in the store.
        fetched_bytes: Bytes that were read from the source this time.
        changed: Whether anything changed; False when it was all there already.
        status: ``new``, ``unchanged``, ``updated`` or ``planned``.
        problems: Everything the user should know.
        same_as: Names of other versions that hold the same adapter: the same tensors and
            scales, whatever format, order or sharding they came in.
        ancestors_missing: Versions that it descends from and that the remote does not have.
    """

    reference: str
    digest: Digest | None
    tensors_digest: Digest | None
    bytes: int
    fetched_bytes: int
    changed: bool
    status: str
    source: str
    format: str
    layout: str
    architecture: str
    confidence: float
    modules: int
    fidelity: Fidelity
    verdict: Verdict
    problems: tuple[Problem, ...] = ()
    same_as: tuple[str, ...] = ()
    ancestors_missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """Outcome of a conversion; see the CLI contract for the fields."""

    path: str
    format: str
    source_format: str
    fidelity: Fidelity
    max_abs_error: float
    tensors: int
    bytes: int
    files: tuple[str, ...]
    verdict: Verdict
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedRow:
    """A DoRA input that was made plain with the weights of its base.

    Attributes:
        reference: The input.
        modules: How many of its modules.
        error: Relative Frobenius error of their updates; 0 where all could be made exact.
    """

    reference: str
    modules: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeReport:
    """Outcome of a composition.

    Attributes:
        error: Relative Frobenius error against the exact sum.
        status: ``new``, ``unchanged``, ``updated`` or ``planned``.
        baked: Inputs that were DoRA and were made plain, with what that cost.
    """

    reference: str
    digest: Digest | None
    tensors_digest: Digest | None
    recipe: dict[str, object]
    modules: int
    ranks: tuple[int, ...]
    error: float
    fidelity: Fidelity
    status: str
    changed: bool
    baked: tuple[BakedRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredAdapter:
    """A stored version, ready to be used; its tensors are read from the store when wanted."""

    reference: str
    digest: Digest
    manifest: Manifest
    adapter: Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of ``ls`` and ``search``."""

    reference: str
    digest: Digest
    family: str
    format: str
    method: str
    ranks: tuple[int, ...]
    modules: int
    parameters: int
    bytes: int
    base: str
    verdict: str
    domain: str
    description: str
    license: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarRow:
    """One line of ``similar``.

    Attributes:
        profile: Cosine of the modules' energies: whether they change the same places.
        cosine: Cosine of the updates themselves, exact; None where nothing is in common.
        shared: Modules that both adapt.
    """

    reference: str
    digest: Digest
    profile: float
    cosine: float | None
    shared: int
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One version in the history of a name, newest first.

    Attributes:
        role: How it relates to the one above it: ``tip``, ``pulled_over``, ``composed_from``.
        depth: Steps from the tip.
        weight: Weight in the composition above it, else None.
        parents: What it descends from, as far as it is here.
    """

    digest: Digest
    name: str
    role: str
    depth: int
    weight: float | None
    source: str
    description: str
    parents: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRow:
    """One move of a tag."""

    reference: str
    old: Digest | None
    new: Digest | None
    reason: str
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Outcome of ``verify``: every claim of a version, computed again."""

    reference: str
    digest: Digest
    verdict: Verdict
    checks: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowReport:
    """A version in full."""

    reference: str
    digest: Digest
    manifest: Manifest
    card: str
    inspection: Inspection | None = None
