"""CART: the mean, and the greatest directions of what each update adds to it."""

from __future__ import annotations

from adaptrix.compose.core import Core
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.methods.polar import spectrum
from adaptrix.compose.settings import SCALE, Parameter, Settings

KEEP = Parameter(
    name="keep", summary="share of each difference's directions that is kept", default=0.5,
    low=0.0, high=1.0,
)  # fmt: skip


def _merge(core: Core, weights: tuple[float, ...], settings: Settings) -> Product:
    mean = core.sum([1 / len(weights)] * len(weights))
    merged = mean * (sum(weights) / len(weights))
    for weight, part in zip(weights, core.parts, strict=True):
        if float((part - mean).norm()) == 0:
            continue
        u, sizes, v = spectrum(part - mean)
        kept = round(settings["keep"] * len(sizes))
        difference = (u[:, :kept] * sizes[:kept]) @ v[:, :kept].T
        merged = merged + settings["scale"] * weight * difference
    return product(core, merged, weights)


METHOD = Method(
    name="cart",
    how=Cores(merge=_merge),
    summary="the mean, plus the greatest directions of each update's difference from it",
    reference="Choi et al. 2024, Revisiting weight averaging, arXiv 2412.12153",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(KEEP, SCALE),
)
