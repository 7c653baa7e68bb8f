"""Model Breadcrumbs: drop the greatest and the smallest entries."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import above, magnitude_cuts, weighted_sum
from adaptrix.compose.settings import DENSITY, Parameter, Settings

GAMMA = Parameter(
    name="gamma", summary="share of the greatest entries that is dropped", default=0.01, low=0.0,
    high=0.5, neutral=0.0,
)  # fmt: skip


def _begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    gamma = settings["gamma"]
    lows = magnitude_cuts(elements, min(1.0, gamma + settings["density"]))
    highs = magnitude_cuts(elements, gamma) if gamma > 0 else [float("inf")] * len(lows)

    def between(part: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.where(part.abs().float() < high, above(part, low), 0.0)

    return lambda: (
        lambda parts: weighted_sum(
            [between(*entry) for entry in zip(parts, lows, highs, strict=True)], weights
        )
    )


METHOD = Method(
    name="breadcrumbs",
    how=Entries(begin=_begin),
    summary="weighted sum without the greatest and the smallest entries of each update",
    reference="Davari and Belilovsky 2024, arXiv 2312.06795, equations 2 to 4",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(DENSITY, GAMMA),
)
