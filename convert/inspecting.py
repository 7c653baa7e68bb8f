"""The report of one reading, put together from its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adaptrix.convert.architecture.detect import Detection, layer_indices
from adaptrix.convert.architecture.fit import Fit
from adaptrix.convert.draft import Draft, Factors
from adaptrix.convert.layouts.naming import Named
from adaptrix.schema.adapter import CARRIED, AdaptedModule, Adapter, BaseRequirement
from adaptrix.schema.report import (
    ArchitectureReport,
    BaseCandidate,
    BaseModelReport,
    Fidelity,
    FormatReport,
    Inspection,
    ModuleReport,
    TensorAccount,
    verdict_of,
)
from adaptrix.schema.tensor import LazyTensor

_SHOWN = 0.005
"""Smallest probability of a base that is worth a line."""


def inspection_of(
    *,
    source: str,
    report: FormatReport,
    draft: Draft,
    named: Named,
    modules: Sequence[AdaptedModule],
    detection: Detection,
    fit: Fit,
    adapter: Adapter | None,
) -> Inspection:
    """Everything that ``inspect`` says about ``source``."""
    tensors = _tensors(draft, adapter)
    kinds = {str(module.path): module.kind.value for module in modules}
    pairs = sorted(named.factors, key=lambda pair: pair.path)
    return Inspection(
        source=source,
        verdict=verdict_of(draft.problems),
        format=report,
        architecture=ArchitectureReport(
            family=detection.family,
            layout=named.layout,
            confidence=detection.confidence,
            candidates=detection.candidates,
            evidence=(*detection.evidence, *named.evidence),
        ),
        base_model=BaseModelReport(
            declared=draft.base_name or None,
            matches=tuple(base.name for base in detection.matches),
            compatible=fit.compatible,
            candidates=tuple(
                BaseCandidate(name=base.name, probability=chance)
                for base, chance in zip(detection.matches, detection.chances, strict=False)
                if chance >= _SHOWN
            ),
        ),
        layers=layer_indices(pair.path for pair in pairs),
        parameters=sum(tensor.count for tensor in tensors),
        bytes=sum(tensor.size_bytes for tensor in tensors),
        dtypes=tuple(sorted({tensor.dtype.long_name for tensor in tensors})),
        modules=(
            *(_module(pair, kinds.get(pair.path, pair.kind.value)) for pair in pairs),
            *map(_carried, _carried_paths(draft)),
        ),
        tensors=TensorAccount(
            total=draft.total, used=draft.used, ignored=draft.ignored, unknown=draft.unknown
        ),
        convertible=adapter is not None,
        fidelity=draft.fidelity if adapter is not None else Fidelity.REFUSED,
        problems=draft.problems,
        needs_base=draft.needs_base,
    )


def _carried_paths(draft: Draft) -> Sequence[str]:
    """Modules of what is kept, or could be kept, as it is."""
    if draft.carried is not None:
        return draft.carried.paths
    known = draft.needs_base is not BaseRequirement.NONE and not draft.factors
    return sorted(draft.hints) if known else ()


def _carried(path: str) -> ModuleReport:
    return ModuleReport(
        path=path,
        source=path,
        kind=CARRIED,
        in_features=0,
        out_features=0,
        rank=0,
        alpha=None,
        scale=None,
    )


def _tensors(draft: Draft, adapter: Adapter | None) -> list[LazyTensor]:
    if adapter is not None:
        return list(adapter.tensors().values())
    found = [t for pair in draft.factors for t in pair.tensors()]
    return found + [r.tensor for r in draft.replacements]


def _module(pair: Factors, kind: str) -> ModuleReport:
    a, b, scale = pair.a.shape, pair.b.shape, pair.scale
    return ModuleReport(
        path=pair.path,
        source=pair.source,
        kind=kind,
        in_features=math.prod(a[1:]) if a else 0,
        out_features=b[0] if b else 0,
        rank=a[0] if a else 0,
        alpha=scale.alpha if scale else None,
        scale=scale.value if scale else None,
    )
