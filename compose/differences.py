"""How far two adapters are from each other, module by module, in factor space.

``ΔW = s·B·A`` is never multiplied out: with ``s·B = Q_b R_b`` and ``Aᵀ = Q_a R_a`` the
Frobenius norm of ``ΔW`` is that of the small matrix ``R_b R_aᵀ`` (the Qs are orthogonal).
The difference of two updates is itself one of rank ``r₁ + r₂``, so its norm is computed
the same way and does not suffer from the cancellation of ``‖x‖² + ‖y‖² − 2⟨x,y⟩``. All in
float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from adaptrix.compose.tensors import to_torch
from adaptrix.schema.adapter import AdaptedModule, Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Two updates beside each other.

    Attributes:
        norm_a, norm_b: Frobenius norms of the updates, scale included.
        inner: Their inner product ``⟨ΔW_a, ΔW_b⟩``.
        norm_difference: ``‖ΔW_a − ΔW_b‖``.
    """

    norm_a: float
    norm_b: float
    inner: float
    norm_difference: float

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between them, within [-1, 1]; None when one of them is 0."""
        if self.norm_a == 0 or self.norm_b == 0:
            return None
        return max(-1.0, min(1.0, self.inner / (self.norm_a * self.norm_b)))

    @property
    def share(self) -> float:
        """``‖a − b‖ / (‖a‖ + ‖b‖)``: 0 for the same update, 1 for opposite or one missing."""
        whole = self.norm_a + self.norm_b
        return min(1.0, self.norm_difference / whole) if whole else 0.0


def norm(module: AdaptedModule) -> float:
    """Frobenius norm of a module's update, scale included."""
    return _norm(*_factors(module))


def distance(one: AdaptedModule, other: AdaptedModule) -> Distance | None:
    """Compare two updates of the same parameter; None when their shapes differ."""
    down_a, up_a = _factors(one)
    down_b, up_b = _factors(other)
    if down_a.shape[1] != down_b.shape[1] or up_a.shape[0] != up_b.shape[0]:
        return None
    inner = float(((up_a.T @ up_b) * (down_a @ down_b.T)).sum())
    both = _norm(torch.cat([down_a, down_b]), torch.cat([up_a, -up_b], dim=1))
    return Distance(
        norm_a=_norm(down_a, up_a),
        norm_b=_norm(down_b, up_b),
        inner=inner,
        norm_difference=both,
    )


def adapters_cosine(one: Adapter, other: Adapter) -> tuple[float | None, int]:
    """Cosine of two adapters over all their modules, and how many modules they share.

    A module that only one of them has counts as zero in the other.
    """
    theirs = {module.path: module for module in other.modules}
    inner, shared = 0.0, 0
    for module in one.modules:
        found = distance(module, theirs[module.path]) if module.path in theirs else None
        if found is not None:
            inner += found.inner
            shared += 1
    sizes = math.hypot(*map(norm, one.modules)) * math.hypot(*map(norm, other.modules))
    return (inner / sizes if sizes and shared else None), shared


def total(distances: list[Distance]) -> Distance:
    """Several parameters taken as one vector."""
    return Distance(
        norm_a=math.sqrt(sum(d.norm_a**2 for d in distances)),
        norm_b=math.sqrt(sum(d.norm_b**2 for d in distances)),
        inner=sum(d.inner for d in distances),
        norm_difference=math.sqrt(sum(d.norm_difference**2 for d in distances)),
    )


def _factors(module: AdaptedModule) -> tuple[torch.Tensor, torch.Tensor]:
    """``A (r, in)`` and ``s·B (out, r)`` in float64."""
    down = to_torch(module.a).double().flatten(1)
    up = to_torch(module.b).double().flatten(1)
    return down, up * module.scale.value


def _norm(down: torch.Tensor, up: torch.Tensor) -> float:
    """``‖up · down‖`` by the triangular factors of both."""
    right = torch.linalg.qr(down.T, mode="r").R  # (min(in, r), r)
    left = torch.linalg.qr(up, mode="r").R  # (min(out, r), r)
    return float(torch.linalg.norm(left @ right.T))
