"""Experts for llama.cpp and MLX-LM: one stacked pair per part, ``(E, r, in)``, ``(E, out, r)``.

transformers keeps ``gate`` and ``up`` of an expert in one matrix, both of them apart: each part
takes its rows of ``B``. Columns that are zero in a part are left out of it, so that pairs
which were joined from two come apart again; experts of a smaller rank are filled up with
zeros, one without factors is all zeros. Source: llama.cpp, ``llm_graph_context::build_lora_mm_id``,
and ``modify_tensors`` of ``Qwen2MoeModel``; mlx_lm, ``tuner/lora.py`` (``LoRASwitchLinear``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.arrays import bits, content, take_columns, take_rows
from adaptrix.convert.layouts.experts import slice_of
from adaptrix.convert.layouts.fusing import scale_at
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.peft_experts import EXPERTS
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind, ModulePath
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import LazyTensor

PARTS: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",),
}  # fmt: skip
"""Parts of a stacked parameter, in the order of its rows."""
Slices = dict[int, AdaptedModule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One part of all experts of a layer.

    Attributes:
        logical: A pair of its rank and scale, at the path of the part.
        parameter: Path of the parameter that it is a part of.
        a: ``(E, r, in)``.
        b: ``(E, out, r)``.
    """

    logical: AdaptedModule
    parameter: str
    a: LazyTensor
    b: LazyTensor


def is_expert(module: AdaptedModule) -> bool:
    """Whether a module is one expert's slice of a parameter that is written as a stack."""
    part = slice_of(module.path) if module.kind is ModuleKind.PARAMETER else None
    return part is not None and part[0].rpartition(".")[2] in PARTS


def stacks(adapter: Adapter, target: str = "gguf") -> tuple[Stack, ...]:
    """Every stack of the adapter; reads ``B``.

    Raises:
        Refused: experts of one parameter with different scales or element types, or a
            number of experts that is not known.
    """
    groups: dict[str, Slices] = {}
    for module in adapter.modules:
        part = slice_of(module.path) if is_expert(module) else None
        if part is not None:
            groups.setdefault(part[0], {})[part[1]] = module
    found: list[Stack] = []
    for parameter, slices in groups.items():
        count = _count(adapter, parameter, slices, target)
        _check(parameter, list(slices.values()), target)
        container, _, name = parameter.rpartition(".")
        for index, part_name in enumerate(PARTS[name]):
            parts = {e: _part(m, index, len(PARTS[name]), target) for e, m in slices.items()}
            found.append(_stack(f"{container}.{part_name}", parameter, parts, count))
    return tuple(found)


def _count(adapter: Adapter, parameter: str, slices: Slices, target: str) -> int:
    declared = adapter.extra.get(EXPERTS)
    if not isinstance(declared, int) or declared <= max(slices):
        raise Refused(
            f"{parameter} is stacked over all experts, and how many the base has is not known",
            where=target,
            code="unsupported_target",
            hint="Pass --base with the base model's folder or id.",
        )
    return declared


def _check(parameter: str, modules: Sequence[AdaptedModule], target: str) -> None:
    first = modules[0]
    for module in modules:
        same = (
            module.scale.value == first.scale.value,
            (module.a.dtype, module.b.dtype) == (first.a.dtype, first.b.dtype),
            (module.in_features, module.out_features) == (first.in_features, first.out_features),
            module.magnitude is None and module.bias_delta is None,
        )
        if not all(same):
            message = f"{parameter}: one stack holds one scale, type and shape, not {module.path}'s"
            raise Refused(message, where=target, code="unsupported_target")


def _part(module: AdaptedModule, index: int, count: int, target: str) -> AdaptedModule:
    """Its rows of ``B``, without the columns that are zero there."""
    height, odd = divmod(module.out_features, count)
    if odd:
        message = f"{module.out_features} rows of {module.path} are no {count} equal parts"
        raise Refused(message, where=target, code="unsupported_target")
    b = take_rows(module.b, slice(index * height, (index + 1) * height)) if count > 1 else module.b
    used = [int(column) for column in np.flatnonzero((bits(b) << 1 != 0).any(axis=0))]
    if count == 1 or len(used) in (0, module.rank):
        return replace(module, b=b)
    return replace(module, a=take_rows(module.a, used), b=take_columns(b, used))


def _stack(path: str, parameter: str, slices: Slices, count: int) -> Stack:
    rank = max(module.rank for module in slices.values())
    first = next(module for module in slices.values() if module.rank == rank)
    into, out = first.in_features, first.out_features

    def down() -> memoryview:
        wide = np.zeros((count, rank, into), dtype=bits(first.a).dtype)
        for expert, module in slices.items():
            wide[expert, : module.rank] = bits(module.a)
        return content(wide)

    def up() -> memoryview:
        wide = np.zeros((count, out, rank), dtype=bits(first.b).dtype)
        for expert, module in slices.items():
            wide[expert, :, : module.rank] = bits(module.b)
        return content(wide)

    scale = first.scale if first.scale.rank == rank else scale_at(first.scale, rank)
    return Stack(
        logical=replace(first, path=ModulePath(path), scale=scale),
        parameter=parameter,
        a=replace(first.a, shape=(count, rank, into), load=down),
        b=replace(first.b, shape=(count, out, rank), load=up),
    )
