"""Fused factors of one module: all adapters' parts, stacked along the rank.

Shapes: ``A (R, in)``, ``B (out, R)`` with weight and scale folded into ``B`` once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.plan import ModulePlan
from adaptrix.schema.tensor import DType, LazyTensor

_NUMPY = {DType.F16: np.float16, DType.F32: np.float32, DType.F64: np.float64}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedFactors:
    """The update of one module.

    Attributes:
        a: ``(R, in)`` float32, or float64 where asked.
        b: ``(out, R)`` of the same type, weight and scale folded in.
        bias: ``(out,)`` or None, weight and scale folded in.
        magnitude: DoRA magnitude ``(out,)`` or None.
        transposed: Whether the base weight is ``(in, out)`` (Conv1D, embeddings).
    """

    a: torch.Tensor
    b: torch.Tensor
    bias: torch.Tensor | None
    magnitude: torch.Tensor | None
    transposed: bool

    def delta(self) -> torch.Tensor:
        """``ΔW`` in the base weight's own orientation."""
        product: torch.Tensor = self.b @ self.a  # (out, in)
        return product.T if self.transposed else product

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(left, right)`` whose product is :meth:`delta`."""
        return (self.a.T, self.b.T) if self.transposed else (self.b, self.a)


def fuse(
    module: ModulePlan, device: torch.device, dtype: torch.dtype = torch.float32
) -> FusedFactors:
    """Read and stack the factors of one module."""
    first = module.shares[0].module
    a = torch.empty(module.rank, first.in_features, dtype=dtype)
    b = torch.empty(first.out_features, module.rank, dtype=dtype)
    biases = []
    begin = 0
    for share in module.shares:
        end = begin + share.module.rank
        _fill(a[begin:end], share.module.a, 1.0)
        _fill(b[:, begin:end], share.module.b, share.factor)
        begin = end
        if share.module.bias_delta is not None:
            biases.append(to_torch(share.module.bias_delta).double() * share.factor)
    magnitude = None if first.magnitude is None else to_torch(first.magnitude).to(dtype)
    return FusedFactors(
        a=a.to(device),
        b=b.to(device),
        bias=torch.stack(biases).sum(0).to(device, dtype) if biases else None,
        magnitude=None if magnitude is None else magnitude.flatten().to(device),
        transposed=module.shape.transposed,
    )


def values(tensor: LazyTensor) -> NDArray[np.floating[Any]]:
    """The values of a factor as a matrix, without a copy where numpy has the type."""
    rows = tensor.shape[0]
    if tensor.dtype in _NUMPY:
        return np.frombuffer(tensor.load(), _NUMPY[tensor.dtype]).reshape(rows, -1)
    return to_torch(tensor).float().reshape(rows, -1).numpy()


def _fill(into: torch.Tensor, tensor: LazyTensor, factor: float) -> None:
    # In float64, so that weight, scale and value meet in one rounding.
    np.multiply(values(tensor), factor, out=into.numpy(), dtype=np.float64, casting="same_kind")
