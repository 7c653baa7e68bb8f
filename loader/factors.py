"""Fused factors of one module: all adapters' parts, stacked along the rank, in float32.

Shapes: ``A (R, in)``, ``B (out, R)`` with weight and scale folded into ``B`` once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.plan import ModulePlan
from adaptrix.schema.adapter import ModuleKind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedFactors:
    """The update of one module.

    Attributes:
        a: ``(R, in)`` float32.
        b: ``(out, R)`` float32, weight and scale folded in.
        bias: ``(out,)`` float32 or None, weight and scale folded in.
        magnitude: DoRA magnitude ``(out,)`` float32 or None.
        transposed: Whether the base weight is ``(in, out)`` (Conv1D, embeddings).
    """

    a: torch.Tensor
    b: torch.Tensor
    bias: torch.Tensor | None
    magnitude: torch.Tensor | None
    transposed: bool

    def delta(self) -> torch.Tensor:
        """``ΔW`` in the base weight's own orientation, float32."""
        product: torch.Tensor = self.b @ self.a  # (out, in)
        return product.T if self.transposed else product


def fuse(module: ModulePlan, device: torch.device) -> FusedFactors:
    """Read and stack the factors of one module."""
    downs, ups, biases = [], [], []
    for share in module.shares:
        # float64 so that weight, scale and B meet in one rounding.
        up = to_torch(share.module.b).double() * share.factor
        downs.append(to_torch(share.module.a).float())
        ups.append(up.float())
        if share.module.bias_delta is not None:
            biases.append(to_torch(share.module.bias_delta).double() * share.factor)
    first = module.shares[0].module
    magnitude = None if first.magnitude is None else to_torch(first.magnitude).float()
    return FusedFactors(
        a=torch.cat(downs).to(device),
        b=torch.cat(ups, dim=1).to(device),
        bias=torch.stack(biases).sum(0).float().to(device) if biases else None,
        magnitude=None if magnitude is None else magnitude.flatten().to(device),
        transposed=first.kind in (ModuleKind.CONV1D, ModuleKind.EMBEDDING),
    )


def merged_weight(weight: torch.Tensor, factors: FusedFactors) -> torch.Tensor:
    """``W + ΔW`` in float32; with DoRA ``m · (W + ΔW) / ‖W + ΔW‖`` by rows.

    DoRA: Liu et al. 2024, equation 5; rows are output features.
    """
    wide = weight.float()
    if factors.magnitude is None:
        if factors.transposed:
            return wide + factors.delta()
        return torch.addmm(wide, factors.b, factors.a)
    total = wide + factors.delta()
    rows = total.T if factors.transposed else total
    scaled: torch.Tensor = rows * (factors.magnitude / rows.norm(dim=1)).unsqueeze(1)
    return scaled.T if factors.transposed else scaled
