"""Iso-CTS: common directions of the sum, and each update's own, all of one size."""

from __future__ import annotations

import torch

from adaptrix.compose.core import Core
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.methods.polar import polar, spectrum
from adaptrix.compose.settings import SCALE, Parameter, Settings

COMMON = Parameter(
    name="common", summary="share of the directions that is common", default=0.8, low=0.05, high=1.0
)


def _merge(core: Core, weights: tuple[float, ...], settings: Settings) -> Product:
    u, sizes, v = spectrum(core.sum(weights))
    directions = min(core.left.shape[1], core.right.shape[1])
    common = max(1, min(len(sizes), round(settings["common"] * directions)))
    own = (directions - common) // len(weights)
    lefts, rights, values = [u[:, :common]], [v[:, :common]], [sizes[:common]]
    for weight, part in zip(weights, core.parts, strict=True):
        rest = weight * part
        rest = rest - u[:, :common] @ (u[:, :common].T @ rest)
        if own and float(rest.norm()) > 0:
            left, values_of_own, right = spectrum(rest)
            lefts.append(left[:, :own])
            rights.append(right[:, :own])
            values.append(values_of_own[:own])
    size = settings["scale"] * float(torch.cat(values).mean())
    left, right = polar(torch.cat(lefts, dim=1)), polar(torch.cat(rights, dim=1))
    return product(core, size * left @ right.T, weights)


METHOD = Method(
    name="iso_cts",
    how=Cores(merge=_merge),
    summary="common directions of the sum and each update's own, all of one size",
    reference="Marczak et al. 2025, arXiv 2502.04959, section 4.2",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(COMMON, SCALE),
)
