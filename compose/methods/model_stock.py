"""Model Stock: the mean, shortened by how far the updates disagree."""

from __future__ import annotations

import torch

from adaptrix.compose.inputs import Group
from adaptrix.compose.method import Coefficients, Method
from adaptrix.compose.methods.sphere import lengths, portions
from adaptrix.compose.settings import Settings


def _find(gram: torch.Tensor, group: Group, _settings: Settings) -> list[float]:
    parts, sizes = portions(group), torch.tensor(lengths(gram), dtype=torch.float64)
    count = len(parts)
    if count < 2 or float(sizes.min()) == 0:
        return parts
    cosines = gram / (sizes[:, None] * sizes)
    cosine = (float(cosines.sum()) - count) / (count * (count - 1))
    # The ratio of equation 3; below 0 the mean is further from the centre than the base is.
    ratio = max(0.0, count * cosine / (1 + (count - 1) * cosine))
    return [ratio * part for part in parts]


METHOD = Method(
    name="model_stock",
    how=Coefficients(find=_find),
    summary="weighted mean times k·cos/(1+(k-1)·cos) of the mean cosine",
    reference="Jang et al. 2024, arXiv 2403.19522, equation 3",
    laws=("identity", "absence", "order", "refactoring"),
)
