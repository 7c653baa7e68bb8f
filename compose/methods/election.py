"""Sign election and masks, shared by the methods that look at single entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptrix.compose.elements import Elements


def weighted_sum(parts: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """``Σ wₜ xₜ``."""
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total


def magnitude_cuts(elements: Elements, density: float) -> list[float]:
    """Per update, the magnitude that its greatest ``density`` share of entries reaches."""

    def magnitude(index: int) -> float:
        return elements.cut(lambda parts: parts[index].abs(), density)

    count = len(next(elements.blocks()))
    return [magnitude(index) for index in range(count)]


def above(part: torch.Tensor, cut: float) -> torch.Tensor:
    """``part`` with what lies below the cut set to 0."""
    return torch.where(part.abs().float() >= cut, part, 0.0)


def disjoint_mean(
    parts: Sequence[torch.Tensor], weights: Sequence[float], scale: float
) -> torch.Tensor:
    """Per entry, the weighted mean of the values that agree with the elected sign.

    The sign is that of the weighted sum; entries that are 0 take no part (Yadav et al. 2023,
    TIES-Merging, section 3, steps 2 and 3).
    """
    elected = weighted_sum(parts, weights).sign()
    total, portions = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
    for weight, part in zip(weights, parts, strict=True):
        agrees = ((weight * part).sign() == elected) & (part != 0)
        total = total + torch.where(agrees, weight * part, 0.0)
        portions = portions + torch.where(agrees, abs(weight), 0.0)
    return scale * total / torch.where(portions > 0, portions, 1.0)


def dropped(part: torch.Tensor, keep: torch.Tensor | float, draw: torch.Generator) -> torch.Tensor:
    """``part · Bernoulli(keep) / keep``: the same in the mean (Yu et al. 2024, DARE, eq. 3)."""
    chance = torch.rand(part.shape, generator=draw, dtype=torch.float64)
    return torch.where(chance < keep, part / keep, 0.0)
