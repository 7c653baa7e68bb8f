"""A barycentre on the sphere in one step, for any number of updates."""

from __future__ import annotations

import torch

from adaptrix.compose.inputs import Group
from adaptrix.compose.method import Coefficients, Method
from adaptrix.compose.methods.sphere import mean_direction
from adaptrix.compose.settings import Settings


def _find(gram: torch.Tensor, group: Group, _settings: Settings) -> list[float]:
    return mean_direction(gram, group, 1)


METHOD = Method(
    name="multislerp",
    how=Coefficients(find=_find),
    summary="weighted mean direction by one log and exp map, times the mean length",
    reference="mergekit's multislerp, docs/merge_methods.md",
    laws=("identity", "absence", "order", "refactoring"),
)
