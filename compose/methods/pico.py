"""Pico: weaken the output directions that the updates share, then add up.

On its own it is followed by the plain sum; ``pico+NAME`` lets another method follow.
"""

from __future__ import annotations

import torch

from adaptrix.compose.core import Core, canonical
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.settings import Settings

PREFIX = "pico+"


def calibrated(core: Core) -> Core:
    """``ΔW_t → (I + U diag(α−1) Uᵀ) ΔW_t``, ``αⱼ = 1/(1+(T−1)sⱼ)``, in a canonical core.

    There, ``U`` are the left singular vectors of all updates side by side and ``sⱼ`` their
    shares of the energy: a direction that holds all of it is weakened to its mean.
    """
    energies = torch.cat(core.parts, dim=1).square().sum(dim=1)
    shares = energies / energies.sum().clamp(min=torch.finfo(energies.dtype).tiny)
    damping = 1 / (1 + (len(core.parts) - 1) * shares)
    parts = tuple(damping[:, None] * part for part in core.parts)
    return Core(left=core.left, right=core.right, parts=parts)


def _merge(core: Core, weights: tuple[float, ...], _settings: Settings) -> Product:
    aligned = canonical(core)
    merged = calibrated(aligned).sum(weights)
    wanted = sum(abs(w) * float(p.norm()) for w, p in zip(weights, core.parts, strict=True))
    size = float(merged.norm())
    scale = wanted / len(weights) / size if size > 0 else 0.0
    return product(aligned, scale * merged, weights)


METHOD = Method(
    name="pico",
    how=Cores(merge=_merge),
    summary="weighted sum with shared output directions weakened, at the mean size",
    reference="Pico, arXiv 2604.16826",
    laws=("identity", "absence", "order", "refactoring"),
)
