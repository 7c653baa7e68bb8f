"""The Riemannian centre of mass of the updates' directions."""

from __future__ import annotations

import torch

from adaptrix.compose.inputs import Group
from adaptrix.compose.method import Coefficients, Method
from adaptrix.compose.methods.sphere import mean_direction
from adaptrix.compose.settings import Parameter, Settings

STEPS = Parameter(
    name="steps", summary="greatest number of steps", default=100, low=1, high=10000, whole=True
)


def _find(gram: torch.Tensor, group: Group, settings: Settings) -> list[float]:
    return mean_direction(gram, group, int(settings["steps"]))


METHOD = Method(
    name="karcher",
    how=Coefficients(find=_find),
    summary="Riemannian centre of mass of the directions, times the mean length",
    reference="Karcher 1977, Riemannian center of mass and mollifier smoothing",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(STEPS,),
)
