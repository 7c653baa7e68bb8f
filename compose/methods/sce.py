"""SCE: select entries that vary, calculate weights, erase minority signs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adaptrix.compose.core import NULL
from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import disjoint_mean
from adaptrix.compose.settings import DENSITY, SCALE, Settings


def _variance(parts: list[torch.Tensor]) -> torch.Tensor:
    stack = torch.stack(parts)
    variance = stack.var(dim=0, unbiased=False)
    # Adapters that agree vary by rounding alone, which must not choose anything.
    rounding = float(stack.abs().max()) * max(NULL, 64 * torch.finfo(stack.dtype).eps)
    return torch.where(variance > rounding**2, variance, 0.0)


def _begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    alone = len(weights) == 1
    cut = 0.0 if alone else elements.cut(_variance, settings["density"])
    energies = [0.0] * len(weights)
    for parts in elements.blocks():
        kept = 1.0 if alone else _variance(parts).float() >= cut
        for index, part in enumerate(parts):
            energies[index] += float((part * kept).double().square().sum())
    whole = sum(energies) or 1.0
    shares = [w * energy / whole for w, energy in zip(weights, energies, strict=True)]
    scale = settings["scale"]

    def apply(parts: list[torch.Tensor]) -> torch.Tensor:
        kept = 1.0 if alone else _variance(parts).float() >= cut
        return disjoint_mean([part * kept for part in parts], shares, scale)

    return lambda: apply


METHOD = Method(
    name="sce",
    how=Entries(begin=_begin),
    summary="keep entries that vary most, weights by energy, erase minority signs",
    reference="Wan et al. 2024, FuseChat, arXiv 2408.07990, section 3.3",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(DENSITY, SCALE),
)
