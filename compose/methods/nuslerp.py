"""Spherical interpolation of two directions, linear interpolation of their lengths."""

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
    size = sum(part * length for part, length in zip(parts, sizes, strict=True))
    ways = arc(angle(gram, sizes), parts[1], group.path)
    return [way / length * size for way, length in zip(ways, sizes, strict=True)]


METHOD = Method(
    name="nuslerp",
    how=Coefficients(find=_find, pairs_only=True),
    summary="spherical interpolation of two directions, lengths interpolated linearly",
    reference="mergekit's nuslerp, docs/merge_methods.md",
    laws=("identity", "absence", "order", "refactoring"),
)
