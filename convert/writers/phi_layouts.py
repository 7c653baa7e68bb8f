"""Writes PEFT files under the names that Phi had before: layouts L1, L2, L3 and L5.

L5 has other names alone. L1, L2 and L3 have q, k and v fused (see
:mod:`adaptrix.convert.layouts.phi`): where the three share one ``A`` bit for bit (they were
split from one pair), the fused pair is that pair again. Otherwise ``A`` is the three stacked
and ``B`` block-diagonal, rank ``r_q + r_k + r_v``: algebraically the same update, from copies
alone. L3 has the rows of each head together, which needs the number of heads; L1 numbers
its final norm and head after the last block, which needs the number of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.arrays import bits, concat_rows, content, take_rows
from adaptrix.convert.layouts.phi import BLOCK_MAP, FUSED, HEADS, OUTER_MAP, row_blocks
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.heads import heads_of
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
_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAST = {"model.final_layernorm": "ln", "lm_head": "linear"}
"""What L1 has behind its last block, under that block's number plus one."""
_FIRST = {"phi-l1": 1}
_TEMPLATES = {"phi-l1": "layers.{}.", "phi-l2": "transformer.h.{}."}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Naming:
    """One layout's names, as the inverse of how they are read."""

    layout: str
    layers: int | None

    @property
    def fused(self) -> str:
        """Tail of the fused q, k, v, or ``""``."""
        tails = BLOCK_MAP[self.layout].items()
        return next((tail for tail, to in tails if to == FUSED), "")

    def inside(self, layer: int, tail: str) -> str:
        template = _TEMPLATES.get(self.layout, "model.layers.{}.")
        return template.format(layer + _FIRST.get(self.layout, 0)) + tail

    def name(self, path: str) -> str:
        """Name of a module that is not fused.

        Raises:
            Refused: the layout has no such module.
        """
        match = _BLOCK.fullmatch(path)
        tails = {to: tail for tail, to in BLOCK_MAP[self.layout].items()}
        if match and match[2] in tails:
            return self.inside(int(match[1]), tails[match[2]])
        outer = next((old for old, to in OUTER_MAP[self.layout].items() if to == path), None)
        if outer is None and self.layout == "phi-l1" and path in _LAST:
            if self.layers is None:
                raise _refused(self.layout, f"{path} is numbered after the last block, and how "
                               "many blocks the base has is not known")  # fmt: skip
            outer = self.inside(self.layers, _LAST[path])
        if outer is None and path.partition(".")[0] in HEADS:
            outer = path
        if outer is None:
            raise _refused(self.layout, f"{self.layout} has no module {path}")
        return outer


def writer(layout: str) -> Callable[[Adapter], Written]:
    """The writer of one layout.

    Returns:
        A function that raises ``Refused`` for another family, and for parts that one fused
        pair cannot hold exactly.
    """

    def write(adapter: Adapter) -> Written:
        return _write(adapter, layout)

    return write


LAYOUTS: Mapping[str, Callable[[Adapter], Written]] = {
    name: writer(name) for name in ("phi-l1", "phi-l2", "phi-l3", "phi-l5")
}


def _write(adapter: Adapter, layout: str) -> Written:
    if adapter.family != "phi":
        family = adapter.family or "unknown"
        raise _refused(layout, f"the layout is Phi's, the adapter is for the family {family}")
    known = known_base(adapter.base_name)
    naming = _Naming(layout=layout, layers=known.dimensions.layers if known else None)
    fused: dict[int, dict[str, AdaptedModule]] = {}
    modules: list[AdaptedModule] = []
    for module in adapter.modules:
        match = _BLOCK.fullmatch(module.path)
        if naming.fused and match and match[2] in _PARTS:
            fused.setdefault(int(match[1]), {})[match[2]] = module
        else:
            modules.append(replace(module, path=ModulePath(naming.name(module.path))))
    for layer, parts in fused.items():
        joined = _fuse(naming.inside(layer, naming.fused), parts, layout)
        modules.append(_interleaved(adapter, joined) if layout == "phi-l3" else joined)
    return write_peft(
        replace(
            adapter,
            modules=tuple(sorted(modules, key=lambda m: m.path)),
            replacements=tuple(_replacement(r, naming) for r in adapter.replacements),
            # The names are no longer those of the family's current class.
            family="",
            layout=layout,
            extra=_extra(adapter, modules),
        )
    )


def _interleaved(adapter: Adapter, module: AdaptedModule) -> AdaptedModule:
    """Rows of ``q‖k‖v`` as ``[q k v]`` of one head after the other."""
    third = module.out_features // 3
    heads = heads_of(adapter, "q", third, str(module.path))
    stored = np.concatenate([np.asarray(r) for r in row_blocks("phi-l3", 3 * third, heads)])
    order = [int(row) for row in np.argsort(stored)]

    def moved(tensor: LazyTensor | None) -> LazyTensor | None:
        return None if tensor is None else take_rows(tensor, order)

    return replace(
        module,
        b=take_rows(module.b, order),
        magnitude=moved(module.magnitude),
        bias_delta=moved(module.bias_delta),
    )


def _replacement(replacement: Replacement, naming: _Naming) -> Replacement:
    module, _, leaf = replacement.parameter.rpartition(".")
    if leaf in {"weight", "bias"}:
        return replace(replacement, parameter=f"{naming.name(module)}.{leaf}")
    return replace(replacement, parameter=naming.name(replacement.parameter))


def _extra(adapter: Adapter, modules: Sequence[AdaptedModule]) -> dict[str, Json]:
    extra = {k: v for k, v in adapter.extra.items() if k != "modules_to_save"}
    if "target_modules" in extra:
        extra["target_modules"] = sorted({m.path.rpartition(".")[2] for m in modules})
    return extra


def _fuse(path: str, parts: dict[str, AdaptedModule], layout: str) -> AdaptedModule:
    """One pair for q, k and v; rows of a missing part stay zero."""
    present = [parts[name] for name in _PARTS if name in parts]
    first = present[0]
    _check(path, present, layout)
    whole = len(present) == len(_PARTS)
    shared = whole and all(_same(first.a, m.a) for m in present)
    if not whole and any(m.magnitude or m.bias_delta for m in present):
        raise _refused(layout, f"{path}: a magnitude or bias of {len(present)} of three parts")
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
        magnitude=_joined(path, [m.magnitude for m in present], layout),
        bias_delta=_joined(path, [m.bias_delta for m in present], layout),
    )


def _check(path: str, present: Sequence[AdaptedModule], layout: str) -> None:
    first = present[0]
    for module in present[1:]:
        if module.scale.value != first.scale.value:
            raise _refused(layout, f"{path}: q, k and v have different scales")
        if module.a.dtype is not first.a.dtype or module.b.dtype is not first.b.dtype:
            raise _refused(layout, f"{path}: q, k and v have different element types")
        if (module.in_features, module.out_features) != (first.in_features, first.out_features):
            raise _refused(layout, f"{path}: q, k and v have different shapes")


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


def _joined(path: str, tensors: Sequence[LazyTensor | None], layout: str) -> LazyTensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return None
    if len(present) != len(tensors):
        raise _refused(layout, f"{path}: a magnitude or bias of some of q, k and v")
    return concat_rows(present)


def _same(one: LazyTensor, two: LazyTensor) -> bool:
    if one.shape != two.shape or one.dtype is not two.dtype:
        return False
    return bytes(one.load()) == bytes(two.load())


def _refused(layout: str, message: str) -> Refused:
    return Refused(message, where=layout, code="unsupported_target")
