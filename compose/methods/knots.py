"""KnOTS: TIES on the updates' coordinates in their common left singular basis."""

from __future__ import annotations

import torch

from adaptrix.compose.core import Core, canonical
from adaptrix.compose.elements import in_basis
from adaptrix.compose.method import Cores, Method, Product
from adaptrix.compose.methods.ties import begin
from adaptrix.compose.settings import DENSITY, SCALE, Settings


def _merge(core: Core, weights: tuple[float, ...], settings: Settings) -> Product:
    """``svd([ΔW₁ … ΔW_T]) = U Σ [V₁ … V_T]ᵀ``; the Σ Vₜᵀ ``(p, in)`` are merged."""
    aligned = canonical(core)
    parts = [part @ aligned.right.T for part in aligned.parts]
    merged = begin(in_basis(parts, _no_draws), weights, settings)()(parts)
    total = aligned.sum(weights) @ aligned.right.T
    return Product(left=aligned.left, middle=merged, right=None, total=total)


def _no_draws() -> list[torch.Generator]:
    return []


METHOD = Method(
    name="knots",
    how=Cores(merge=_merge),
    summary="TIES on coordinates in the common left singular basis",
    reference="Stoica et al. 2024, arXiv 2410.19735, section 4",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(DENSITY, SCALE),
)
