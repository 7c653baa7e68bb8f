"""DELLA: drop small entries more often than great ones, rescale, elect, average."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import disjoint_mean, dropped
from adaptrix.compose.settings import DENSITY, SCALE, Parameter, Settings
from adaptrix.schema.errors import UsageError

SPREAD = Parameter(
    name="epsilon", summary="how far keeping differs from the density at both ends", default=0.1,
    low=0.0, high=0.5, neutral=0.0,
)  # fmt: skip


def keep_chances(part: torch.Tensor, density: float, spread: float) -> torch.Tensor:
    """Chance to be kept, even by rank of magnitude within a row.

    From ``density - spread`` for the smallest entry to ``density + spread`` for the greatest.
    """
    width = part.shape[1]
    if width == 1:
        return torch.full_like(part, density)
    ranks = part.abs().argsort(dim=1, stable=True).argsort(dim=1, stable=True).to(part.dtype)
    chances: torch.Tensor = density - spread + 2 * spread * ranks / (width - 1)
    return chances


def _begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    density, spread, scale = settings["density"], settings["epsilon"], settings["scale"]
    if density - spread <= 0 or density + spread > 1:
        raise UsageError(
            "density ± epsilon must lie in (0, 1]", where=f"density {density}, epsilon {spread}"
        )

    def start() -> Apply:
        draws = elements.generators()
        return lambda parts: disjoint_mean(
            [
                dropped(part, keep_chances(part, density, spread), draw)
                for part, draw in zip(parts, draws, strict=True)
            ],
            weights,
            scale,
        )

    return start


METHOD = Method(
    name="della",
    how=Entries(begin=_begin),
    summary="drop entries at random, small ones more often, rescale, elect, average",
    reference="Deep et al. 2024, arXiv 2406.11617, sections 3.1 to 3.3",
    laws=("identity", "absence", "order"),
    parameters=(DENSITY, SPREAD, SCALE),
    draws=True,
)
