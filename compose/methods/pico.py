"""Pico: weaken the output directions that the updates share, then add up."""

from __future__ import annotations

import torch

from adaptrix.compose.core import Core, canonical
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.settings import Settings


def _merge(core: Core, weights: tuple[float, ...], _settings: Settings) -> Product:
    aligned = canonical(core)
    stacked = torch.cat(aligned.parts, dim=1)
    energies = stacked.square().sum(dim=1)
    shares = energies / energies.sum()
    # αⱼ = 1/(1+(T−1)sⱼ): a direction that holds all the energy is weakened to its mean.
    damping = 1 / (1 + (len(weights) - 1) * shares)
    merged = damping[:, None] * aligned.sum(weights)
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
