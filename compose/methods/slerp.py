"""Spherical interpolation of two updates as they stand."""

from __future__ import annotations

import torch

from adaptrix.compose.inputs import Group
from adaptrix.compose.method import Coefficients, Method
from adaptrix.compose.methods.sphere import angle, arc, lengths, portions
from adaptrix.compose.settings import Settings


def _find(gram: torch.Tensor, group: Group, _settings: Settings) -> list[float]:
    parts, sizes = portions(group), lengths(gram)
    if len(parts) < 2 or min(sizes) == 0:
        return parts
    return list(arc(angle(gram, sizes), parts[1], group.path))


METHOD = Method(
    name="slerp",
    how=Coefficients(find=_find, pairs_only=True),
    summary="spherical interpolation of two updates; the weights say how far",
    reference="Shoemake 1985, Animating rotation with quaternion curves",
    laws=("identity", "absence", "order", "refactoring"),
)
