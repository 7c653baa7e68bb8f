"""The exact weighted sum: task arithmetic by stacking factors."""

from __future__ import annotations

from adaptrix.compose.method import Exact, Method

METHOD = Method(
    name="linear",
    how=Exact(),
    summary="exact weighted sum, by stacking factors; rank is the sum of the ranks",
    reference="Ilharco et al. 2023, arXiv 2212.04089; on factors: Hu et al. 2021, section 4.1",
    laws=("identity", "absence", "order", "refactoring", "linearity"),
)
