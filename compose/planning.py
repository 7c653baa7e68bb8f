"""What a composition would meet, told before it is made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from adaptrix.compose.inputs import Input, groups, present
from adaptrix.compose.measuring import Measured, MeasuredModule, Workspace, measure
from adaptrix.compose.refusals import check_composable
from adaptrix.compose.threads import one_blas_thread

CONFLICT_AT_RISK = 0.5
LOUD = 3.0
ALIKE = 0.8
CROWDED = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """Two adapters on the modules that both have.

    Attributes:
        one, other: Indices of the inputs.
        where: A module class (``q_proj``), or ``all``.
        modules: How many modules both have.
        cosine: Cosine of the angle between the updates.
        overlap: Share of directions in common, 0 to 1: mean of
            ``‖Q_oneᵀ Q_other‖² / min rank`` over outputs and inputs.
        norm_ratio: Greater norm over smaller, weights included.
        sign_conflict: Share of ``Σ|xy|`` over entries of opposite sign, in the updates'
            common singular directions.
    """

    one: int
    other: int
    where: str
    modules: int
    cosine: float
    overlap: float
    norm_ratio: float
    sign_conflict: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModulePlan:
    """One module.

    Attributes:
        path: The module.
        layer: Its layer, or None.
        kind: Its class, the last part of the path.
        adapters: How many have it.
        cosine: Least cosine of any two, None for one adapter.
        sign_conflict: Greatest of any two, None for one adapter.
        loss: Share of the sum's energy that rank ``rank`` loses.
    """

    path: str
    layer: int | None
    kind: str
    adapters: int
    cosine: float | None
    sign_conflict: float | None
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a composition would meet.

    Attributes:
        rank: The rank that losses are predicted for.
        loss: Share of the sum's energy that rank ``rank`` loses over all modules.
        pairs: Every pair of adapters, over all modules and by module class.
        modules: Every module.
        at_risk: Layers whose updates work against each other, worst first.
        method: The recommended method.
        parameters: Its parameters.
        reason: Why.
    """

    rank: int
    loss: float
    pairs: tuple[PairRow, ...]
    modules: tuple[ModulePlan, ...]
    at_risk: tuple[int, ...]
    method: str
    parameters: dict[str, float]
    reason: str


def plan(inputs: Sequence[Input], *, rank: int | None = None) -> Plan:
    """Look at a composition of ``inputs`` without making it.

    Args:
        inputs: Adapters with weights.
        rank: Rank to predict losses for; the greatest rank of any input by default.

    Raises:
        UsageError: a bad weight, or nothing to combine.
        IncompatibleAdapter: they cannot be combined.
    """
    here = present(inputs)
    check_composable([(entry.adapter, entry.weight) for entry in here])
    wanted = rank or max((r for entry in here for r in entry.adapter.ranks), default=1)
    workspace = Workspace()
    with one_blas_thread():
        found = [measure(group, wanted, workspace) for group in groups(here)]
    pairs = tuple(_pairs(here, found))
    modules = tuple(_module_plan(entry) for entry in found)
    energy = sum(entry.energy for entry in found)
    loss = sum(entry.lost for entry in found) / energy if energy else 0.0
    method, parameters, reason = _recommend([row for row in pairs if row.where == "all"])
    return Plan(
        rank=wanted, loss=loss, pairs=pairs, modules=modules, at_risk=_at_risk(modules),
        method=method, parameters=parameters, reason=reason,
    )  # fmt: skip


def _pairs(here: Sequence[Input], found: Sequence[MeasuredModule]) -> list[PairRow]:
    rows = []
    for i, j in itertools.combinations(range(len(here)), 2):
        mine = [
            (_kind(entry.group.path), pair)
            for entry in found
            for pair in entry.pairs
            if pair.one.owner == i and pair.other.owner == j
        ]
        kinds = sorted({kind for kind, _ in mine})
        for where in ("all", *kinds):
            chosen = [pair for kind, pair in mine if where in ("all", kind)]
            if chosen:
                rows.append(_row(i, j, where, chosen))
    return rows


def _row(i: int, j: int, where: str, pairs: Sequence[Measured]) -> PairRow:
    one = math.sqrt(sum(pair.norms[0] ** 2 for pair in pairs))
    other = math.sqrt(sum(pair.norms[1] ** 2 for pair in pairs))
    product = sum(pair.product for pair in pairs)
    low, high = sorted((one, other))
    return PairRow(
        one=i,
        other=j,
        where=where,
        modules=len(pairs),
        cosine=sum(pair.inner for pair in pairs) / (one * other) if low else 0.0,
        overlap=sum(pair.overlap for pair in pairs) / len(pairs),
        norm_ratio=high / low if low else math.inf,
        sign_conflict=sum(pair.opposed for pair in pairs) / product if product else 0.0,
    )


def _module_plan(entry: MeasuredModule) -> ModulePlan:
    path = entry.group.path
    cosines = [p.inner / (p.norms[0] * p.norms[1]) for p in entry.pairs if min(p.norms) > 0]
    conflicts = [p.opposed / p.product for p in entry.pairs if p.product > 0]
    return ModulePlan(
        path=path,
        layer=next((int(part) for part in path.split(".") if part.isdecimal()), None),
        kind=_kind(path),
        adapters=len(entry.group.shares),
        cosine=min(cosines) if cosines else None,
        sign_conflict=max(conflicts) if conflicts else None,
        loss=entry.lost / entry.energy if entry.energy else 0.0,
    )


def _kind(path: str) -> str:
    return path.rpartition(".")[2]


def _at_risk(modules: Sequence[ModulePlan]) -> tuple[int, ...]:
    """Layers in which some update is turned against another one."""
    worst: dict[int, float] = {}
    for module in modules:
        if module.layer is not None and module.cosine is not None and module.cosine < -0.1:
            worst[module.layer] = min(worst.get(module.layer, 0.0), module.cosine)
    return tuple(sorted(worst, key=lambda layer: worst[layer]))


def _recommend(pairs: Sequence[PairRow]) -> tuple[str, dict[str, float], str]:
    """One method with its reason."""
    if not pairs:
        return "linear", {}, "no two adapters share a module: the sum is exact and nothing meets"
    crowded = max(pairs, key=lambda row: row.overlap)
    alike = min(row.cosine for row in pairs)
    if alike > ALIKE:
        reason = f"all cosines are above {alike:.2f}: they say the same, a sum says it too loud"
        return "model_stock", {}, reason
    if crowded.overlap <= CROWDED:
        reason = (
            f"at most {crowded.overlap:.0%} of the directions are shared (cosine "
            f"{crowded.cosine:+.2f}): the exact sum keeps both"
        )
        return "linear", {}, reason
    if crowded.norm_ratio > LOUD:
        reason = (
            f"adapters {crowded.one} and {crowded.other} share {crowded.overlap:.0%} of their "
            f"directions and differ {crowded.norm_ratio:.1f} times in size: a mean of directions "
            "gives both a voice; or lower the greater weight"
        )
        return "nuslerp" if len(pairs) == 1 else "karcher", {}, reason
    if crowded.sign_conflict > CONFLICT_AT_RISK:
        reason = (
            f"adapters {crowded.one} and {crowded.other} share {crowded.overlap:.0%} of their "
            f"directions, and {crowded.sign_conflict:.0%} of what they do there is opposed"
        )
        return "tsv_m", {}, reason
    reason = f"directions are shared, but only {crowded.sign_conflict:.0%} is opposed there"
    return "linear", {}, reason
