"""Expert slices back into PEFT's stacked factors, under PEFT's nested names.

The inverse of :mod:`adaptrix.convert.formats.peft_parameters`, in the orientation of PEFT
0.19.1 and later: ``A (E·r, in)`` expert-major, ``B (out, r·E)`` rank-major. An expert
without factors gets zeros, one of a smaller rank is filled up with zeros: the same update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.arrays import bits, content
from adaptrix.convert.layouts.experts import ordered, slice_of
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    ModuleKind,
    ModulePath,
    Scale,
    ScaleRule,
)
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import LazyTensor

EXPERTS = "num_experts"
"""Key of ``Adapter.extra`` with the number that ``--base`` has."""
CONVENTION = "0.19.1"
"""First PEFT version that reads stacked factors as they are written here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """Adapted parameters of one adapter.

    Attributes:
        logical: One module per parameter with the rank and scale of its experts.
        tensors: Stacked factors by PEFT's key, without ``base_model.model.``.
    """

    logical: tuple[AdaptedModule, ...] = ()
    tensors: Mapping[str, LazyTensor]


def stacks(adapter: Adapter) -> Stacks:
    """Fold every parameter's slices.

    Raises:
        Refused: slices that one pair of stacked factors cannot hold exactly.
    """
    groups: dict[str, dict[int, AdaptedModule]] = {}
    flat: dict[str, AdaptedModule] = {}
    for module in adapter.modules:
        if module.kind is not ModuleKind.PARAMETER:
            continue
        part = slice_of(module.path)
        if part is None:
            flat[str(module.path)] = module
        else:
            groups.setdefault(part[0], {})[part[1]] = module
    logical: list[AdaptedModule] = list(flat.values())
    pairs = {path: (module.a, module.b) for path, module in flat.items()}
    count = max([_declared(adapter), *(max(found) + 1 for found in groups.values())], default=0)
    for parameter, found in groups.items():
        shape = _common(parameter, found)
        logical.append(shape)
        pairs[parameter] = _stack(found, shape, count)
    return Stacks(logical=tuple(logical), tensors=_named(pairs))


def _declared(adapter: Adapter) -> int:
    value = adapter.extra.get(EXPERTS)
    return value if isinstance(value, int) and 0 < value < 100_000 else 0


def _common(parameter: str, found: Mapping[int, AdaptedModule]) -> AdaptedModule:
    """What the slices have in common, as a module of their largest rank."""
    modules = list(found.values())
    first = modules[0]
    for module in modules:
        if module.scale.value != first.scale.value:
            raise refused(f"{parameter}: its experts have different scales")
        if (module.a.dtype, module.b.dtype) != (first.a.dtype, first.b.dtype):
            raise refused(f"{parameter}: its experts have different element types")
        if (module.in_features, module.out_features) != (first.in_features, first.out_features):
            raise refused(f"{parameter}: its experts have different shapes")
        if module.magnitude is not None or module.bias_delta is not None:
            raise refused(f"{parameter}: PEFT has no magnitude or bias for a raw parameter")
    widest = max(modules, key=lambda module: module.rank)
    if widest.rank == first.rank:
        return replace(first, path=ModulePath(parameter))
    value, rank = widest.scale.value, widest.rank
    scale = Scale(value=value, rule=ScaleRule.ALPHA_OVER_R, alpha=value * rank, rank=rank)
    return replace(widest, path=ModulePath(parameter), scale=scale)


def _stack(
    found: Mapping[int, AdaptedModule], shape: AdaptedModule, count: int
) -> tuple[LazyTensor, LazyTensor]:
    rank, into, out = shape.rank, shape.in_features, shape.out_features

    def down() -> memoryview:
        wide = np.zeros((count, rank, into), dtype=bits(shape.a).dtype)
        for expert, module in found.items():
            wide[expert, : module.rank] = bits(module.a)
        return content(wide)

    def up() -> memoryview:
        wide = np.zeros((out, rank, count), dtype=bits(shape.b).dtype)
        for expert, module in found.items():
            wide[:, : module.rank, expert] = bits(module.b)
        return content(wide)

    return (
        replace(shape.a, shape=(count * rank, into), load=down),
        replace(shape.b, shape=(out, rank * count), load=up),
    )


def _named(pairs: Mapping[str, tuple[LazyTensor, LazyTensor]]) -> dict[str, LazyTensor]:
    containers: dict[str, list[str]] = {}
    for parameter in pairs:
        container, _, name = parameter.rpartition(".")
        containers.setdefault(container, []).append(name)
    tensors: dict[str, LazyTensor] = {}
    for container, names in containers.items():
        order = ordered(names) if len(names) > 1 else names
        if order is None:
            raise refused(f"{container}: the order of {', '.join(names)} in its class is not known")
        for depth, name in enumerate(reversed(order)):
            place = container + ".base_layer" * depth
            a, b = pairs[f"{container}.{name}"]
            tensors |= {f"{place}.lora_A.weight": a, f"{place}.lora_B.weight": b}
    return tensors


def check_plain(modules: Sequence[AdaptedModule], parameters: Iterable[str]) -> None:
    """PEFT takes raw parameters only where no module has a magnitude or a bias.

    Raises:
        Refused: some module has one.
    """
    if list(parameters) and any(m.magnitude or m.bias_delta for m in modules):
        raise refused("PEFT has no DoRA and no bias beside target_parameters")


def refused(message: str) -> Refused:
    """The refusal of this writer."""
    return Refused(message, where="peft", code="unsupported_target")
