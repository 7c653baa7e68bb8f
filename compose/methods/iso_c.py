"""Iso-C: the sum with all singular values made equal."""

from __future__ import annotations

from adaptrix.compose.core import Core
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.methods.polar import spectrum
from adaptrix.compose.settings import SCALE, Settings


def _merge(core: Core, weights: tuple[float, ...], settings: Settings) -> Product:
    u, sizes, v = spectrum(core.sum(weights))
    # The mean over the directions that a LoRA has; the paper's, over all of the matrix,
    # differs by a constant.
    middle = settings["scale"] * float(sizes.mean()) * (u @ v.T)
    return product(core, middle, weights)


METHOD = Method(
    name="iso_c",
    how=Cores(merge=_merge),
    summary="the weighted sum with its singular values replaced by their mean",
    reference="Marczak et al. 2025, arXiv 2502.04959, section 4.1",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(SCALE,),
)
