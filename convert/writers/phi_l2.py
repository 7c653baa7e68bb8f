"""Writes PEFT files for Phi's remote code of 2023-12 (layout L2), with q, k and v fused.

Where the three share one ``A`` bit for bit (they were split from one pair), the fused pair
is that pair again. Otherwise ``A`` is the three stacked and ``B`` block-diagonal, rank
``r_q + r_k + r_v``: algebraically the same update, from copies alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.arrays import bits, concat_rows, content
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.peft import write as write_peft
from adaptrix.convert.written import Written
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    ModulePath,
    Replacement,
    Scale,
    ScaleRule,
)
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import LazyTensor

_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_TAILS = {
    "self_attn.dense": "mixer.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "input_layernorm": "ln",
}  # fmt: skip
_OUTER = {
    "model.embed_tokens": "transformer.embd.wte", "model.final_layernorm": "lm_head.ln",
    "lm_head": "lm_head.linear",
}  # fmt: skip
_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def write(adapter: Adapter) -> Written:
    """The adapter under L2's names.

    Raises:
        Refused: another family, or parts that one fused pair cannot hold exactly.
    """
    if adapter.family != "phi":
        raise _refused(f"the layout is Phi's, the adapter is for {adapter.family or 'unknown'}")
    fused: dict[int, dict[str, AdaptedModule]] = {}
    modules: list[AdaptedModule] = []
    for module in adapter.modules:
        match = _BLOCK.fullmatch(module.path)
        if match and match[2] in _PARTS:
            fused.setdefault(int(match[1]), {})[match[2]] = module
        else:
            modules.append(replace(module, path=ModulePath(_old_name(module.path))))
    modules += [_fuse(layer, parts) for layer, parts in fused.items()]
    return write_peft(
        replace(
            adapter,
            modules=tuple(sorted(modules, key=lambda m: m.path)),
            replacements=tuple(_replacement(r) for r in adapter.replacements),
            # The names are no longer those of the family's current class.
            family="",
            layout="phi-l2",
            extra=_extra(adapter, modules),
        )
    )


def _old_name(path: str) -> str:
    match = _BLOCK.fullmatch(path)
    tail = _TAILS.get(match[2]) if match else None
    name = f"transformer.h.{match[1]}.{tail}" if match and tail else _OUTER.get(path)
    if name is None:
        raise _refused(f"phi-l2 has no module {path}")
    return name


def _replacement(replacement: Replacement) -> Replacement:
    module, _, leaf = replacement.parameter.rpartition(".")
    if leaf in {"weight", "bias"}:
        return replace(replacement, parameter=f"{_old_name(module)}.{leaf}")
    return replace(replacement, parameter=_old_name(replacement.parameter))


def _extra(adapter: Adapter, modules: Sequence[AdaptedModule]) -> dict[str, Json]:
    extra = {k: v for k, v in adapter.extra.items() if k != "modules_to_save"}
    if "target_modules" in extra:
        extra["target_modules"] = sorted({m.path.rpartition(".")[2] for m in modules})
    return extra


def _fuse(layer: int, parts: dict[str, AdaptedModule]) -> AdaptedModule:
    """One pair for q, k and v; rows of a missing part stay zero."""
    present = [parts[name] for name in _PARTS if name in parts]
    first, path = present[0], f"transformer.h.{layer}.mixer.Wqkv"
    _check(path, present)
    whole = len(present) == len(_PARTS)
    shared = whole and all(_same(first.a, m.a) for m in present)
    if not whole and any(m.magnitude or m.bias_delta for m in present):
        raise _refused(f"{path}: a magnitude or bias of {len(present)} of three parts")
    a = first.a if shared else concat_rows([m.a for m in present])
    b = (
        concat_rows([m.b for m in present])
        if shared
        else _block_diagonal(parts, first.out_features)
    )
    scale = first.scale
    if not shared:
        rank = a.shape[0]
        value = scale.value
        scale = Scale(value=value, rule=ScaleRule.ALPHA_OVER_R, alpha=value * rank, rank=rank)
    return replace(
        first,
        path=ModulePath(path),
        a=a,
        b=b,
        scale=scale,
        magnitude=_joined([m.magnitude for m in present]),
        bias_delta=_joined([m.bias_delta for m in present]),
    )


def _check(path: str, present: Sequence[AdaptedModule]) -> None:
    first = present[0]
    for module in present[1:]:
        if module.scale.value != first.scale.value:
            raise _refused(f"{path}: q, k and v have different scales")
        if module.a.dtype is not first.a.dtype or module.b.dtype is not first.b.dtype:
            raise _refused(f"{path}: q, k and v have different element types")
        if (module.in_features, module.out_features) != (first.in_features, first.out_features):
            raise _refused(f"{path}: q, k and v have different shapes")


def _block_diagonal(parts: dict[str, AdaptedModule], rows: int) -> LazyTensor:
    """``B (3·rows, Σr)``: each part's ``B`` in its own rows and columns, zeros elsewhere."""
    present = [(slot, parts[name]) for slot, name in enumerate(_PARTS) if name in parts]
    width = sum(module.rank for _, module in present)
    first = present[0][1].b

    def load() -> memoryview:
        wide = np.zeros((3 * rows, width), dtype=bits(first).dtype)
        column = 0
        for slot, module in present:
            wide[slot * rows : (slot + 1) * rows, column : column + module.rank] = bits(module.b)
            column += module.rank
        return content(wide)

    return replace(first, shape=(3 * rows, width), load=load)


def _joined(tensors: Sequence[LazyTensor | None]) -> LazyTensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return None
    if len(present) != len(tensors):
        raise _refused("a magnitude or bias of some of q, k and v")
    return concat_rows(present)


def _same(one: LazyTensor, two: LazyTensor) -> bool:
    if one.shape != two.shape or one.dtype is not two.dtype:
        return False
    return bytes(one.load()) == bytes(two.load())


def _refused(message: str) -> Refused:
    return Refused(message, where="phi-l2", code="unsupported_target")
