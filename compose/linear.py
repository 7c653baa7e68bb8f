"""The exact linear combination, in factor space.

``Σ wᵢ sᵢ Bᵢ Aᵢ`` is one low-rank update of rank ``Σ rᵢ``: stack the ``Aᵢ`` by rows and the
``wᵢ sᵢ Bᵢ`` by columns. Nothing is multiplied out, so the only rounding is that of folding
``wᵢ sᵢ / s`` into ``Bᵢ``; where all these ratios are powers of two there is none.
(Stacking of factors: "cat" in Mangrulkar et al., PEFT; the sum is LoRA's own linearity,
Hu et al. 2021, section 4.1.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from adaptrix.compose.refusals import check_composable
from adaptrix.compose.tensors import lazy, to_torch, widest
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    ModulePath,
    Replacement,
    Scale,
    ScaleRule,
)
from adaptrix.schema.errors import UsageError
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """A composed adapter.

    Attributes:
        adapter: The result, in canonical form; its tensors are computed when read.
        fidelity: ``exact`` when no ratio was rounded, else ``rounding``.
        relative_error: ``‖ΔW − exact‖ / ‖exact‖`` over all modules (Frobenius, float64).
    """

    adapter: Adapter
    fidelity: Fidelity
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One parent's share of one module; ``factor`` = weight times scale."""

    module: AdaptedModule
    factor: float


def linear(adapters: Sequence[tuple[Adapter, float]]) -> Composition:
    """The exact weighted sum of ``adapters``.

    An adapter with weight 0 is left out; one adapter with weight 1 is returned as it is.

    Args:
        adapters: Pairs of adapter and weight.

    Raises:
        UsageError: nothing is left to combine, or a weight is not finite.
        IncompatibleAdapter: two adapters do not fit each other; the module is named.
    """
    if not all(math.isfinite(weight) for _, weight in adapters):
        raise UsageError("weights must be finite numbers", where="compose")
    present = [(adapter, weight) for adapter, weight in adapters if weight != 0]
    if not present:
        raise UsageError("every weight is 0: nothing to combine", where="compose")
    check_composable(present)
    first, weight = present[0]
    if len(present) == 1 and weight == 1:
        return Composition(adapter=first, fidelity=Fidelity.EXACT, relative_error=0.0)
    parts: dict[ModulePath, list[_Part]] = {}
    for adapter, weight in present:
        for module in adapter.modules:
            part = _Part(module=module, factor=weight * module.scale.value)
            parts.setdefault(module.path, []).append(part)
    modules = tuple(_sum(path, parts[path]) for path in sorted(parts))
    exact = all(_is_exact(group) for group in parts.values())
    error = 0.0 if exact else _relative_error(modules, parts)
    return Composition(
        adapter=_result(first, modules, _replacements(present)),
        fidelity=Fidelity.EXACT if exact else Fidelity.ROUNDING,
        relative_error=error,
    )


def _result(
    first: Adapter, modules: tuple[AdaptedModule, ...], replacements: tuple[Replacement, ...]
) -> Adapter:
    return Adapter(
        modules=modules,
        replacements=replacements,
        family=first.family,
        base_name=first.base_name,
        base_revision=first.base_revision,
        format="composed",
        layout="transformers",
        method="lora",
        task_type=first.task_type,
    )


def _replacements(present: list[tuple[Adapter, float]]) -> tuple[Replacement, ...]:
    found = [item for adapter, _ in present for item in adapter.replacements]
    return tuple(sorted(found, key=lambda item: item.parameter))


def _common_scale(parts: list[_Part]) -> float:
    """The scale that the sum is written with: the first part's own when that is exact."""
    scale = parts[0].module.scale.value
    if all(_power_of_two(part.factor / scale) for part in parts):
        return scale
    return 1.0


def _is_exact(parts: list[_Part]) -> bool:
    scale = _common_scale(parts)
    return all(_power_of_two(part.factor / scale) for part in parts)


def _power_of_two(ratio: float) -> bool:
    # Beyond 2**±6 a float32 factor could leave the normal range.
    return abs(math.frexp(ratio)[0]) == 0.5 and 2**-6 <= abs(ratio) <= 2**6


def _sum(path: ModulePath, parts: list[_Part]) -> AdaptedModule:
    """One module of the sum, ``A (Σr, in)`` and ``B (out, Σr)``."""
    scale = _common_scale(parts)
    rank = sum(part.module.rank for part in parts)
    first = parts[0].module
    dtype = widest([t.dtype for part in parts for t in (part.module.a, part.module.b)])
    if any(part.factor != scale for part in parts):
        # A factor times 2**k may underflow in float16, never in float32.
        dtype = torch.promote_types(dtype, torch.float32)

    def down() -> torch.Tensor:
        return torch.cat([to_torch(part.module.a).to(dtype) for part in parts])

    def up() -> torch.Tensor:
        return torch.cat([_folded(part, scale, dtype) for part in parts], dim=1)

    out = first.b.shape
    return replace(
        first,
        a=lazy(down, dtype=dtype, shape=(rank, *first.a.shape[1:]), source=f"composed:{path}.A"),
        b=lazy(up, dtype=dtype, shape=(out[0], rank, *out[2:]), source=f"composed:{path}.B"),
        source=path,
        scale=Scale(value=scale, rule=ScaleRule.ALPHA_OVER_R, alpha=scale * rank, rank=rank),
        bias_delta=_bias(path, parts, scale, dtype),
    )


def _folded(part: _Part, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """``B · factor/scale``, one rounding to ``dtype``."""
    up = to_torch(part.module.b)
    ratio = part.factor / scale
    return up.to(dtype) if ratio == 1 else (up.double() * ratio).to(dtype)


def _bias(
    path: ModulePath, parts: list[_Part], scale: float, dtype: torch.dtype
) -> LazyTensor | None:
    biased = [part for part in parts if part.module.bias_delta is not None]
    if not biased:
        return None
    width = parts[0].module.out_features

    def total() -> torch.Tensor:
        found = torch.zeros(width, dtype=torch.float64)
        for part in biased:
            if part.module.bias_delta is not None:
                found += to_torch(part.module.bias_delta).double() * (part.factor / scale)
        return found

    return lazy(total, dtype=dtype, shape=(width,), source=f"composed:{path}.bias")


def _relative_error(
    modules: tuple[AdaptedModule, ...], parts: Mapping[ModulePath, list[_Part]]
) -> float:
    """``‖ΔW − exact‖_F / ‖exact‖_F`` by Gram matrices: ``‖U V‖² = tr(UᵀU · V Vᵀ)``."""
    wrong = right = 0.0
    for module in modules:
        down = to_torch(module.a).double().flatten(1)
        gram = down @ down.T
        exact = torch.cat(
            [to_torch(p.module.b).double().flatten(1) * p.factor for p in parts[module.path]], dim=1
        )
        difference = to_torch(module.b).double().flatten(1) * module.scale.value - exact
        wrong += float(((difference.T @ difference) * gram).sum())
        right += float(((exact.T @ exact) * gram).sum())
    return math.sqrt(max(wrong, 0.0) / right) if right > 0 else 0.0
