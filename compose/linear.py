"""The exact linear combination, in factor space.

``Σ wᵢ sᵢ Bᵢ Aᵢ`` is one low-rank update of rank ``Σ rᵢ``: stack the ``Aᵢ`` by rows and the
``wᵢ sᵢ Bᵢ`` by columns. Nothing is multiplied out, so the only rounding is that of folding
``wᵢ sᵢ / s`` into ``Bᵢ``; where all these ratios are powers of two there is none.
(Stacking of factors: "cat" in Mangrulkar et al., PEFT; the sum is LoRA's own linearity,
Hu et al. 2021, section 4.1.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from adaptrix.compose.tensors import lazy, to_torch, widest
from adaptrix.schema.adapter import AdaptedModule, ModulePath, Scale, ScaleRule
from adaptrix.schema.tensor import LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One update in a sum; ``factor`` is what its ``B·A`` is multiplied by."""

    module: AdaptedModule
    factor: float


def _common_scale(parts: Sequence[Part]) -> float:
    """The scale that the sum is written with: the first part's own when that is exact."""
    scale = parts[0].module.scale.value
    if all(_power_of_two(part.factor / scale) for part in parts):
        return scale
    return 1.0


def is_exact(parts: Sequence[Part]) -> bool:
    """Whether stacking them rounds nothing."""
    scale = _common_scale(parts)
    return all(_power_of_two(part.factor / scale) for part in parts)


def _power_of_two(ratio: float) -> bool:
    # Beyond 2**±6 a float32 factor could leave the normal range.
    return abs(math.frexp(ratio)[0]) == 0.5 and 2**-6 <= abs(ratio) <= 2**6


def stacked(path: ModulePath, parts: Sequence[Part]) -> AdaptedModule:
    """One module of the sum, ``A (Σr, in)`` and ``B (out, Σr)``, read when wanted."""
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
        # Stacking is a copy: cheaper to do again than to hold all of the result for.
        a=lazy(
            down,
            dtype=dtype,
            shape=(rank, *first.a.shape[1:]),
            source=f"composed:{path}.A",
            keep=False,
        ),
        b=lazy(
            up,
            dtype=dtype,
            shape=(out[0], rank, *out[2:]),
            source=f"composed:{path}.B",
            keep=False,
        ),
        source=path,
        scale=Scale(value=scale, rule=ScaleRule.ALPHA_OVER_R, alpha=scale * rank, rank=rank),
        bias_delta=weighted_bias(path, parts, scale, dtype),
    )


def _folded(part: Part, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """``B · factor/scale``, one rounding to ``dtype``."""
    up = to_torch(part.module.b)
    ratio = part.factor / scale
    return up.to(dtype) if ratio == 1 else (up.double() * ratio).to(dtype)


def weighted_bias(
    path: ModulePath, parts: Sequence[Part], scale: float, dtype: torch.dtype
) -> LazyTensor | None:
    """``Σ factor·bias / scale (out,)``: biases add up in every method."""
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


def distance(module: AdaptedModule, parts: Sequence[Part]) -> tuple[float, float]:
    """``‖ΔW − Σ‖²`` and ``‖Σ‖²`` of a stacked module, by Gram matrices.

    ``‖U V‖² = tr(UᵀU · V Vᵀ)``. The factors of both are the same but for ``B``, so nothing
    cancels.
    """
    down = to_torch(module.a).double().flatten(1)
    gram = down @ down.T
    exact = torch.cat([to_torch(p.module.b).double().flatten(1) * p.factor for p in parts], dim=1)
    difference = to_torch(module.b).double().flatten(1) * module.scale.value - exact
    wrong = float(((difference.T @ difference) * gram).sum())
    return max(wrong, 0.0), float(((exact.T @ exact) * gram).sum())
