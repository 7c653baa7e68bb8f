"""One fused update, tile by tile: widen, add ``B·A``, round once, and measure what arrived.

Everything that a tile needs stays in a core's cache, so that memory sees each weight once
on its way in and once on its way out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from adaptrix.loader.factors import FusedFactors
from adaptrix.loader.workers import SCRATCH_ELEMENTS, scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How much of a planned change is in the weights.

    Attributes:
        expected_norm: ``‖ΔW‖_F``.
        error: ``‖actual change − ΔW‖_F``.
        survival: ``⟨actual change, ΔW⟩ / ‖ΔW‖²``, 0 when nothing was planned.
        changed: Whether any weight differs from before.
    """

    expected_norm: float
    error: float
    survival: float
    changed: bool

    @classmethod
    def of(cls, wanted_sq: float, error_sq: float, along: float, *, changed: bool) -> Arrival:
        """From ``‖ΔW‖²``, ``‖e‖²`` and ``⟨e, ΔW⟩``, where ``e`` is actual change − ΔW.

        Taken from the small ``e``: the difference of two large norms would lose its digits.
        """
        return cls(
            expected_norm=math.sqrt(wanted_sq),
            error=math.sqrt(error_sq) if error_sq >= 0 else math.nan,
            survival=1 + along / wanted_sq if wanted_sq else 0.0,
            changed=changed,
        )


def merge_tiles(
    before: torch.Tensor, into: torch.Tensor, factors: FusedFactors, dtype: torch.dtype
) -> Arrival:
    """Write ``before + ΔW``, rounded once to ``dtype``, to ``into``.

    With a magnitude it is ``m · (W + ΔW) / ‖W + ΔW‖``, norms over what makes one output
    (DoRA, Liu et al. 2024, equation 5).

    Args:
        before: The pristine weight, two-dimensional, contiguous.
        into: Memory of the same shape, of ``dtype`` or of a type that holds it exactly.
        factors: The update, of the type in which to add: float32, or float64.
        dtype: What to round to.
    """
    left, right = factors.pair()  # (rows, R), (R, columns)
    wide = left.dtype
    columns = before.shape[1]
    step = max(1, SCRATCH_ELEMENTS // columns)
    rooms = [scratch(number, wide, columns) for number in range(3)]
    across = _column_scale(before, factors) if factors.transposed else None
    wanted_sq = error_sq = along = 0.0
    changed = False
    for begin in range(0, before.shape[0], step):
        rows = slice(begin, min(begin + step, before.shape[0]))
        count = rows.stop - begin
        old, delta, total = (room[: count * columns].view(count, columns) for room in rooms)
        old.copy_(before[rows])
        torch.mm(left[rows], right, out=delta)
        torch.add(old, delta, out=total)
        if factors.magnitude is not None:
            total.mul_(_row_scale(total, factors.magnitude[rows]) if across is None else across)
            torch.sub(total, old, out=delta)
        into[rows].copy_(total if into.dtype == dtype else total.to(dtype))
        total.copy_(into[rows])
        total.sub_(old)  # the actual change
        changed = changed or bool(total.any())
        total.sub_(delta)
        flat, wanted = total.flatten(), delta.flatten()
        wanted_sq += float(torch.dot(wanted, wanted))
        error_sq += float(torch.dot(flat, flat))
        along += float(torch.dot(flat, wanted))
    return Arrival.of(wanted_sq, error_sq, along, changed=changed)


def _row_scale(total: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    scale: torch.Tensor = magnitude / total.norm(dim=1)
    return scale.unsqueeze(1)


def _column_scale(before: torch.Tensor, factors: FusedFactors) -> torch.Tensor | None:
    if factors.magnitude is None:
        return None
    left, right = factors.pair()
    squares = torch.zeros(before.shape[1], dtype=left.dtype)
    step = max(1, SCRATCH_ELEMENTS // before.shape[1])
    for begin in range(0, before.shape[0], step):
        rows = slice(begin, begin + step)
        squares += torch.addmm(before[rows].to(left.dtype), left[rows], right).square().sum(0)
    scale: torch.Tensor = factors.magnitude / squares.sqrt()
    return scale
