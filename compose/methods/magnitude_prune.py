"""The weighted sum of the greatest entries of each update."""

from __future__ import annotations

from collections.abc import Callable

from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import above, magnitude_cuts, weighted_sum
from adaptrix.compose.settings import DENSITY, Settings


def _begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    cuts = magnitude_cuts(elements, settings["density"])
    return lambda: (
        lambda parts: weighted_sum(
            [above(part, cut) for part, cut in zip(parts, cuts, strict=True)], weights
        )
    )


METHOD = Method(
    name="magnitude_prune",
    how=Entries(begin=_begin),
    summary="weighted sum of the greatest entries of each update",
    reference="the trimming step of Yadav et al. 2023, arXiv 2306.01708",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(DENSITY,),
)
