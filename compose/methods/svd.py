"""The best approximation of the weighted sum at a rank."""

from __future__ import annotations

from adaptrix.compose.core import Core
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.settings import ENERGY, RANK, Settings


def _merge(core: Core, weights: tuple[float, ...], _settings: Settings) -> Product:
    return product(core, core.sum(weights), weights)


METHOD = Method(
    name="svd",
    how=Cores(merge=_merge, of_one=True),
    summary="best rank-K form of the weighted sum; without rank or energy, its own rank",
    reference="Eckart and Young 1936, The approximation of one matrix by another of lower rank",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(RANK, ENERGY),
)
