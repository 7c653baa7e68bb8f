"""What loading is about to do, as data: printable, and testable without weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptrix.loader.structure import BaseStructure, ModuleShape
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    BaseRequirement,
    ModulePath,
    Replacement,
    ReplacementRole,
)
from adaptrix.schema.errors import IncompatibleAdapter, UsageError

MODES = ("merged", "attached")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedAdapter:
    """An adapter with its weight and the name it goes by."""

    name: str
    adapter: Adapter
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One adapter's part in one module."""

    owner: str
    module: AdaptedModule
    weight: float

    @property
    def factor(self) -> float:
        """Weight times scale: what ``B·A`` is multiplied by."""
        return self.weight * self.module.scale.value


@dataclass(frozen=True, slots=True, kw_only=True)
class ModulePlan:
    """What happens to one module.

    Attributes:
        path: Its path in the base.
        shape: What the base has there.
        shares: The adapters' parts, in the order given.
    """

    path: ModulePath
    shape: ModuleShape
    shares: tuple[Share, ...]

    @property
    def rank(self) -> int:
        """Rank of the fused update."""
        return sum(share.module.rank for share in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Everything that will change in the base.

    Attributes:
        base: Name of the base.
        mode: ``merged`` or ``attached``.
        modules: Sorted by path.
        replacements: Parameters that are replaced outright, with their owners.
        factor_bytes: Bytes of all factors in float32.
    """

    base: str
    mode: str
    modules: tuple[ModulePlan, ...]
    replacements: tuple[tuple[str, Replacement], ...]
    factor_bytes: int

    @property
    def touches(self) -> bool:
        """Whether it changes anything."""
        return bool(self.modules or self.replacements)

    def lines(self) -> Iterator[str]:
        """The plan for people, one line per module."""
        yield f"base {self.base}, mode {self.mode}, {len(self.modules)} modules"
        for module in self.modules:
            owners = " + ".join(
                f"{s.weight:g}·{s.owner} (r={s.module.rank})" for s in module.shares
            )
            yield f"  {module.path}: {owners}"
        for owner, replacement in self.replacements:
            yield f"  {replacement.parameter}: replaced by {owner} ({replacement.role})"


def plan(
    structure: BaseStructure, adapters: Sequence[WeightedAdapter], *, mode: str = "merged"
) -> LoadPlan:
    """Match every module of every adapter with the base, by path and shape.

    Adapters with weight 0 take no part.

    Raises:
        UsageError: an unknown mode.
        IncompatibleAdapter: something does not fit; every misfit is listed.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}", where="--mode", hint=f"Modes: {', '.join(MODES)}.")
    present = [entry for entry in adapters if entry.weight != 0]
    for entry in present:
        if entry.adapter.obstacle:
            raise IncompatibleAdapter(
                entry.adapter.obstacle,
                where=entry.name,
                hint="Export it (adaptrix export --for peft) and load it with PEFT.",
                code="not_mergeable",
            )
    misfits = [text for entry in present for text in _misfits(structure, entry)]
    misfits += _conflicts(structure, present, mode)
    if misfits:
        raise _refusal(structure, present, misfits)
    shares: dict[ModulePath, list[Share]] = {}
    for entry in present:
        for module in entry.adapter.modules:
            share = Share(owner=entry.name, module=module, weight=entry.weight)
            shares.setdefault(module.path, []).append(share)
    modules = tuple(
        ModulePlan(path=path, shape=structure.modules[path], shares=tuple(shares[path]))
        for path in sorted(shares)
    )
    elements = sum(s.module.a.count + s.module.b.count for m in modules for s in m.shares)
    return LoadPlan(
        base=structure.name,
        mode=mode,
        modules=modules,
        replacements=tuple(
            (entry.name, item) for entry in present for item in entry.adapter.replacements
        ),
        factor_bytes=4 * elements,
    )


def _refusal(
    structure: BaseStructure, present: Sequence[WeightedAdapter], misfits: list[str]
) -> IncompatibleAdapter:
    wants = "; ".join(
        f"{entry.name} was made for {entry.adapter.base_name or 'an undeclared base'}"
        f" ({entry.adapter.family or 'unknown family'})"
        for entry in present
    )
    shown = "; ".join(misfits[:5]) + (f"; and {len(misfits) - 5} more" if len(misfits) > 5 else "")
    return IncompatibleAdapter(
        f"{wants}; the base is {structure.family}: {shown}",
        where=structure.name,
        hint="Give the base model that the adapters were trained on with --base.",
        code="wrong_base",
    )


def _misfits(structure: BaseStructure, entry: WeightedAdapter) -> Iterator[str]:
    adapter = entry.adapter
    if adapter.needs_base is BaseRequirement.RESIDUAL:
        yield f"{entry.name} was trained on a modified (residual) base"
    for module in adapter.modules:
        shape = structure.modules.get(module.path)
        if shape is None:
            yield f"{entry.name}: the base has no module {module.path}"
        elif (shape.in_features, shape.out_features) != (module.in_features, module.out_features):
            yield (
                f"{entry.name}: {module.path} is {shape.in_features} -> {shape.out_features} "
                f"in the base and {module.in_features} -> {module.out_features} in the adapter"
            )
        elif shape.kind is not module.kind:
            yield f"{entry.name}: {module.path} is {shape.kind} in the base, not {module.kind}"
        elif module.bias_delta is not None and not shape.has_bias:
            yield f"{entry.name}: {module.path} has no bias in the base"
    for item in adapter.replacements:
        yield from _replacement_misfits(structure, entry, item)


def _replacement_misfits(
    structure: BaseStructure, entry: WeightedAdapter, item: Replacement
) -> Iterator[str]:
    shape = structure.parameters.get(item.parameter)
    got = item.tensor.shape
    if shape is None:
        yield f"{entry.name}: the base has no parameter {item.parameter}"
    elif item.role is ReplacementRole.TRAINABLE_TOKENS:
        if got[1:] != shape[1:] or any(row >= shape[0] for row in item.rows):
            yield f"{entry.name}: token rows {got} do not fit {item.parameter} {shape}"
    elif got != shape:
        yield f"{entry.name}: {item.parameter} is {shape} in the base and {got} in the adapter"
    if entry.weight != 1:
        yield f"{entry.name}: {item.parameter} is absolute and takes weight 1 only"


def _unmergeable(structure: BaseStructure, entry: WeightedAdapter) -> Iterator[str]:
    """What merged mode cannot do, and attached mode can."""
    for module in entry.adapter.modules:
        shape = structure.modules.get(module.path)
        if shape is not None and not shape.mergeable:
            yield f"{entry.name}: {module.path} is quantised; run with --mode attached"
        if shape is not None and shape.parameter in structure.tied:
            yield f"{entry.name}: {shape.parameter} is tied; merging would change both ends"
    for item in entry.adapter.replacements:
        # PEFT keeps both ends apart when one of them is replaced; one parameter cannot.
        tokens = item.role is ReplacementRole.TRAINABLE_TOKENS
        if item.parameter in structure.tied and not tokens:
            yield (
                f"{entry.name}: {item.parameter} is tied; replacing it would change both ends; "
                "run with --mode attached"
            )


def _unattachable(structure: BaseStructure, entry: WeightedAdapter) -> Iterator[str]:
    """What attached mode cannot do, and merged mode can."""
    for module in entry.adapter.modules:
        shape = structure.modules.get(module.path)
        if shape is not None and not shape.attachable:
            yield (
                f"{entry.name}: {module.path} has no forward that could be added to; "
                "run with --mode merged"
            )


def _conflicts(
    structure: BaseStructure, present: Sequence[WeightedAdapter], mode: str
) -> Iterator[str]:
    owners: dict[str, list[str]] = {}
    dora: dict[str, str] = {}
    replaced: dict[str, str] = {}
    for entry in present:
        for module in entry.adapter.modules:
            owners.setdefault(module.path, []).append(entry.name)
            if module.magnitude is not None:
                dora[module.path] = entry.name
                if entry.weight != 1:
                    yield f"{entry.name}: DoRA on {module.path} takes weight 1 only"
        impossible = _unmergeable if mode == "merged" else _unattachable
        yield from impossible(structure, entry)
        for item in entry.adapter.replacements:
            if item.parameter in replaced:
                yield f"{replaced[item.parameter]} and {entry.name} both replace {item.parameter}"
            replaced[item.parameter] = entry.name
    for path, name in dora.items():
        if len(owners[path]) > 1:
            others = " and ".join(owner for owner in owners[path] if owner != name)
            yield f"{name} is DoRA on {path} and cannot be combined with {others}"
