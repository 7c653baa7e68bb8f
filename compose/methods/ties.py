"""TIES: trim, elect signs, mean of those that agree."""

from __future__ import annotations

from collections.abc import Callable

from adaptrix.compose.elements import Elements
from adaptrix.compose.method import Apply, Entries, Method
from adaptrix.compose.methods.election import above, disjoint_mean, magnitude_cuts
from adaptrix.compose.settings import DENSITY, SCALE, Settings


def begin(
    elements: Elements, weights: tuple[float, ...], settings: Settings
) -> Callable[[], Apply]:
    """Trim to the density, then elect and average."""
    cuts = magnitude_cuts(elements, settings["density"])
    scale = settings["scale"]
    return lambda: (
        lambda parts: disjoint_mean(
            [above(part, cut) for part, cut in zip(parts, cuts, strict=True)], weights, scale
        )
    )


METHOD = Method(
    name="ties",
    how=Entries(begin=begin),
    summary="trim small entries, elect a sign, average the entries that agree",
    reference="Yadav et al. 2023, arXiv 2306.01708",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(DENSITY, SCALE),
)
