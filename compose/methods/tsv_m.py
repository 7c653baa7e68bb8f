"""TSV-Merge: singular vectors of all tasks, decorrelated."""

from __future__ import annotations

import torch

from adaptrix.compose.core import Core
from adaptrix.compose.method import Cores, Method, Product, product
from adaptrix.compose.methods.polar import polar, spectrum
from adaptrix.compose.settings import SCALE, Settings


def _merge(core: Core, weights: tuple[float, ...], settings: Settings) -> Product:
    # All of a LoRA's directions are kept; numerically null ones would turn real ones.
    triplets = [spectrum(w * part) for w, part in zip(weights, core.parts, strict=True)]
    left = polar(torch.cat([u for u, _, _ in triplets], dim=1))
    right = polar(torch.cat([v for _, _, v in triplets], dim=1))
    sizes = torch.cat([s for _, s, _ in triplets])
    middle = settings["scale"] * (left * sizes) @ right.T
    return product(core, middle, weights)


METHOD = Method(
    name="tsv_m",
    how=Cores(merge=_merge),
    summary="singular vectors of all updates, made orthogonal to each other",
    reference="Gargiulo et al. 2025, arXiv 2412.00081, section 4.2",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(SCALE,),
)
