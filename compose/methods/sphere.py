"""Means on the sphere of directions, shared by slerp, nuslerp, multislerp and karcher.

All that is needed are the inner products of the updates; the result is coefficients.
Weights count relative to their sum. An adapter without the module counts as an update of
zero: it shortens the mean and has no direction.
"""

from __future__ import annotations

import math

import torch

from adaptrix.compose.inputs import Group
from adaptrix.schema.errors import UsageError

PARALLEL = 1e-9
"""Sine of an angle below which two directions count as one."""


def portions(group: Group) -> list[float]:
    """Weights over the sum of all inputs' weights.

    Raises:
        UsageError: weights that are no portions of a mean.
    """
    if group.total <= 0 or any(weight < 0 for weight in group.weights):
        raise UsageError(
            "a mean of directions needs weights above 0",
            where=group.path,
            hint="Use linear for weights of either sign.",
        )
    return [weight / group.total for weight in group.weights]


def lengths(gram: torch.Tensor) -> list[float]:
    """``‖ΔW_t‖``."""
    return [math.sqrt(max(float(value), 0.0)) for value in gram.diagonal()]


def angle(gram: torch.Tensor, sizes: list[float]) -> float:
    """Angle between two updates."""
    cosine = float(gram[0, 1]) / (sizes[0] * sizes[1])
    return math.acos(max(-1.0, min(1.0, cosine)))


def arc(theta: float, portion: float, path: str) -> tuple[float, float]:
    """Shoemake's coefficients of two unit vectors, ``portion`` of the way to the second.

    Raises:
        UsageError: the directions are opposite: there is no shortest way.
    """
    sine = math.sin(theta)
    if sine < PARALLEL:
        if theta > 1:
            raise UsageError("the two updates point in opposite directions", where=path)
        return 1 - portion, portion
    return math.sin((1 - portion) * theta) / sine, math.sin(portion * theta) / sine


def mean_direction(gram: torch.Tensor, group: Group, steps: int) -> list[float]:
    """Coefficients of the mean direction times the mean length.

    ``steps`` of Riemannian gradient descent from the normalised mean of the unit vectors
    (Karcher 1977; one step is the log and exp map of a barycentre).

    Raises:
        UsageError: the directions cancel out.
    """
    sizes, parts = lengths(gram), torch.tensor(portions(group), dtype=torch.float64)
    if any(size == 0 for size in sizes):
        return [float(part) for part in parts]
    scale = torch.tensor(sizes, dtype=torch.float64)
    unit = gram / (scale[:, None] * scale)
    inside = parts / parts.sum()
    point = inside.clone()
    start = float(point @ unit @ point)
    if start < PARALLEL:
        raise UsageError("the updates' directions cancel out", where=group.path)
    point = point / math.sqrt(start)
    identity = torch.eye(len(sizes), dtype=torch.float64)
    for _ in range(steps):
        cosines = (unit @ point).clamp(-1.0, 1.0)
        angles = cosines.acos()
        ratios = torch.where(angles > PARALLEL, angles / angles.sin(), torch.ones_like(angles))
        # Σ pᵢ log(uᵢ), each log being (uᵢ − cosᵢ·point)·θᵢ/sin θᵢ, as coefficients.
        step = (inside * ratios) @ (identity - cosines[:, None] * point)
        length = math.sqrt(max(float(step @ unit @ step), 0.0))
        if length < PARALLEL:
            break
        point = math.cos(length) * point + math.sin(length) / length * step
        point = point / math.sqrt(float(point @ unit @ point))
    size = float((parts * scale).sum())
    return [float(value) for value in point / scale * size]
