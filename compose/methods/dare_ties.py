"""DARE, then the sign election of TIES; without its trimming, as mergekit does it."""

from __future__ import annotations

from collections.abc import Callable

from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import disjoint_mean, dropped
from adaptrix.compose.settings import DENSITY, SCALE, Settings


def _begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    keep, scale = settings["density"], settings["scale"]

    def start() -> Apply:
        draws = elements.generators()
        return lambda parts: disjoint_mean(
            [dropped(part, keep, draw) for part, draw in zip(parts, draws, strict=True)],
            weights,
            scale,
        )

    return start


METHOD = Method(
    name="dare_ties",
    how=Entries(begin=_begin),
    summary="drop entries at random, rescale, elect a sign, average those that agree",
    reference="Yu et al. 2024, arXiv 2311.03099, with Yadav et al. 2023, arXiv 2306.01708",
    laws=("identity", "absence", "order"),
    parameters=(DENSITY, SCALE),
    draws=True,
)
