"""DARE: drop entries at random, rescale the rest, add up."""

from __future__ import annotations

from collections.abc import Callable

from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import dropped, weighted_sum
from adaptrix.compose.settings import DENSITY, Settings


def _begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    keep = settings["density"]

    def start() -> Apply:
        draws = elements.generators()
        return lambda parts: weighted_sum(
            [dropped(part, keep, draw) for part, draw in zip(parts, draws, strict=True)], weights
        )

    return start


METHOD = Method(
    name="dare_linear",
    how=Entries(begin=_begin),
    summary="drop entries at random, rescale the rest, add up",
    reference="Yu et al. 2024, arXiv 2311.03099",
    laws=("identity", "absence", "order"),
    parameters=(DENSITY,),
    draws=True,
)
