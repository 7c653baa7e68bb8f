"""What two versions differ in: updates module by module, settings, card."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from adaptrix.compose.differences import Distance, distance, norm, total
from adaptrix.registry.looking import open_version, show
from adaptrix.registry.reports import StoredAdapter
from adaptrix.schema.adapter import AdaptedModule, ModulePath
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter
from adaptrix.schema.record import AdapterRecord
from adaptrix.schema.tensor import LazyTensor
from adaptrix.store.home import Home

MAX_CARD_LINES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleDiff:
    """One adapted module in both versions, or in one of them.

    Attributes:
        path: The module.
        status: ``same`` (bit for bit), ``changed``, ``only_a``, ``only_b`` or ``shape``.
        cosine: Cosine of the two updates; None where one is absent or zero.
        share: ``‖a − b‖ / (‖a‖ + ‖b‖)``: 0 the same, 1 opposite or in one of them only.
        norm_a, norm_b: Frobenius norms of the updates, scale included; 0 where absent.
        rank_a, rank_b: Ranks; 0 where absent.
        scale_a, scale_b: Effective scales; 0 where absent.
        beside: What differs beside the factors: ``magnitude``, ``bias``.
    """

    path: str
    status: str
    cosine: float | None
    share: float
    norm_a: float
    norm_b: float
    rank_a: int
    rank_b: int
    scale_a: float
    scale_b: float
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDiff:
    """A statement that differs."""

    field: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffReport:
    """Outcome of ``diff``.

    Attributes:
        a, b: The versions as they are named.
        digest_a, digest_b: Their digests.
        same_tensors: Whether both hold the same tensors, bit for bit.
        cosine: Cosine over all modules together; None when one update is zero.
        share: As of a module, over all of them.
        modules: Every module of either, sorted by path.
        replacements: Parameters that are replaced outright, where they differ.
        fields: Settings and statements that differ.
        card: The cards' differing lines, as a unified diff.
    """

    a: str
    b: str
    digest_a: Digest
    digest_b: Digest
    same_tensors: bool
    cosine: float | None
    share: float
    modules: tuple[ModuleDiff, ...]
    replacements: tuple[FieldDiff, ...]
    fields: tuple[FieldDiff, ...]
    card: tuple[str, ...]


def diff(home: Home, text_a: str, text_b: str) -> DiffReport:
    """See :meth:`Registry.diff`.

    Raises:
        IncompatibleAdapter: one of two different ones has no modules to compare.
    """
    one, other = open_version(home, text_a), open_version(home, text_b)
    for side in (one, other):
        if side.adapter.obstacle and one.digest != other.digest:
            raise IncompatibleAdapter(side.adapter.obstacle, where=side.reference)
    pairs = list(_pairs(one, other))
    whole = total([d for _, d in pairs if d is not None])
    cards = (show(home, text_a).card, show(home, text_b).card)
    return DiffReport(
        a=one.reference,
        b=other.reference,
        digest_a=one.digest,
        digest_b=other.digest,
        same_tensors=one.manifest.record.tensors_digest == other.manifest.record.tensors_digest,
        cosine=whole.cosine,
        share=whole.share,
        modules=tuple(module for module, _ in pairs),
        replacements=tuple(_replacements(one, other)),
        fields=tuple(_fields(one.manifest.record, other.manifest.record)),
        card=_card_lines(*cards, one.reference, other.reference),
    )


def _pairs(one: StoredAdapter, other: StoredAdapter) -> Iterator[tuple[ModuleDiff, Distance]]:
    left = {module.path: module for module in one.adapter.modules}
    right = {module.path: module for module in other.adapter.modules}
    for path in sorted({*left, *right}):
        yield _compared(path, left.get(path), right.get(path))


def _compared(
    path: ModulePath, one: AdaptedModule | None, other: AdaptedModule | None
) -> tuple[ModuleDiff, Distance]:
    found = distance(one, other) if one is not None and other is not None else None
    status = _status(one, other, found)
    if found is None:
        norms = (norm(one) if one else 0.0, norm(other) if other else 0.0)
        apart = (norms[0] ** 2 + norms[1] ** 2) ** 0.5
        found = Distance(norm_a=norms[0], norm_b=norms[1], inner=0.0, norm_difference=apart)
    module = ModuleDiff(
        path=path,
        status=status,
        cosine=found.cosine if one is not None and other is not None else None,
        share=1.0 if status in {"only_a", "only_b", "shape"} else found.share,
        norm_a=found.norm_a,
        norm_b=found.norm_b,
        rank_a=one.rank if one else 0,
        rank_b=other.rank if other else 0,
        scale_a=one.scale.value if one else 0.0,
        scale_b=other.scale.value if other else 0.0,
        beside=tuple(_beside(one, other)) if one is not None and other is not None else (),
    )
    return module, found


def _status(one: AdaptedModule | None, other: AdaptedModule | None, found: Distance | None) -> str:
    if one is None:
        return "only_b"
    if other is None:
        return "only_a"
    if found is None:
        return "shape"
    factors = _equal(one.a, other.a) and _equal(one.b, other.b)
    same = factors and one.scale.value == other.scale.value and not list(_beside(one, other))
    return "same" if same else "changed"


def _beside(one: AdaptedModule, other: AdaptedModule) -> Iterator[str]:
    if not _equal(one.magnitude, other.magnitude):
        yield "magnitude"
    if not _equal(one.bias_delta, other.bias_delta):
        yield "bias"


def _equal(one: LazyTensor | None, other: LazyTensor | None) -> bool:
    """Whether two tensors are the same bytes."""
    if one is None or other is None:
        return one is other
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and bytes(one.load()) == bytes(other.load())


def _replacements(one: StoredAdapter, other: StoredAdapter) -> Iterator[FieldDiff]:
    left = {item.parameter: item.tensor for item in one.adapter.replacements}
    right = {item.parameter: item.tensor for item in other.adapter.replacements}
    for parameter in sorted({*left, *right}):
        a, b = left.get(parameter), right.get(parameter)
        if not _equal(a, b):
            yield FieldDiff(field=parameter, a=_tensor_text(a), b=_tensor_text(b))


def _tensor_text(tensor: LazyTensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{tensor.dtype.long_name} {list(tensor.shape)} {Digest.of(tensor.load()).short}"


def _fields(one: AdapterRecord, other: AdapterRecord) -> Iterator[FieldDiff]:
    left, right = _statements(one), _statements(other)
    for name, value in left.items():
        if value != right[name]:
            yield FieldDiff(field=name, a=value, b=right[name])


def _statements(record: AdapterRecord) -> dict[str, str]:
    """What a version says of itself that is worth comparing."""
    source, conversion = record.source, record.conversion
    recipe = record.recipe or {}
    return {
        "base": f"{record.base.name} {record.base.revision}".strip(),
        "family": record.family,
        "method": record.method,
        "dtypes": ", ".join(record.dtypes),
        "parameters": str(record.parameters),
        "description": record.description,
        "domain": record.domain,
        "capabilities": ", ".join(record.capabilities),
        "training data": record.training_data,
        "licence": record.license,
        "source": f"{source.kind} {source.repository} {source.commit}".strip(),
        "format": f"{conversion.format}/{conversion.layout}" if conversion else "composed",
        "recipe": str(recipe.get("method", "")),
        "parents": ", ".join(
            f"{p.role} {p.name or p.digest.short}" + (f" x{p.weight:g}" if p.weight else "")
            for p in record.parents
        ),
    }


def _card_lines(one: str, other: str, name_a: str, name_b: str) -> tuple[str, ...]:
    lines = difflib.unified_diff(
        one.splitlines(), other.splitlines(), name_a, name_b, lineterm="", n=1
    )
    found = tuple(lines)
    if len(found) > MAX_CARD_LINES:
        return (*found[:MAX_CARD_LINES], f"… {len(found) - MAX_CARD_LINES} more lines")
    return found
