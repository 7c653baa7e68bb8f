"""One fused update, tile by tile: widen, add ``B·A``, round once, and measure what arrived.

Everything that a tile needs stays in a core's cache, so that memory sees each weight once
on its way in and once on its way out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from adaptrix.loader.factors import FusedFactors
from adaptrix.loader.products import RightFactor
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
    update = RightFactor(right, step)
    rooms = [scratch(number, wide, columns) for number in range(3)]
    across = _column_scale(before, factors) if factors.transposed else None
    narrow = torch.finfo(dtype).bits < torch.finfo(wide).bits
    wanted_sq = _product_sq(left, right) if factors.magnitude is None else 0.0
    error_sq = along = 0.0
    changed = False
    # Every call from Python holds the interpreter, which the other workers then wait for:
    # views are made once where they can be.
    old = delta = total = rooms[0][:0].view(0, columns)
    for number, (source, target, part) in enumerate(
        zip(before.split(step), into.split(step), left.split(step), strict=True)
    ):
        if len(part) != len(old):
            old, room, total = (x[: part.shape[0] * columns].view(-1, columns) for x in rooms)
        old.copy_(source)
        delta = update.product(part, room)
        torch.add(old, delta, out=total)
        if factors.magnitude is not None:
            rows = slice(number * step, number * step + len(part))
            total.mul_(_row_scale(total, factors.magnitude[rows]) if across is None else across)
            torch.sub(total, old, out=delta)
        target.copy_(total if into.dtype == dtype else total.to(dtype))
        changed = changed or not torch.equal(target.to(before.dtype), source)
        missed = _missed(target, old, delta, total, narrow=narrow).view(-1)
        planned = delta.view(-1)
        error_sq += float(torch.dot(missed, missed))
        along += float(torch.dot(missed, planned))
        if factors.magnitude is not None:
            wanted_sq += float(torch.dot(planned, planned))
    return Arrival.of(wanted_sq, error_sq, along, changed=changed)


def _missed(
    new: torch.Tensor,
    old: torch.Tensor,
    delta: torch.Tensor,
    total: torch.Tensor,
    *,
    narrow: bool,
) -> torch.Tensor:
    """Actual change − ``ΔW`` of a tile, written over ``old`` or ``total``.

    Beside the rounding to a narrow type, that of the sum itself is nothing; in a wide type
    it is all that there is.
    """
    if narrow:
        return old.copy_(new).sub_(total)
    return total.copy_(new).sub_(old).sub_(delta)


def _product_sq(left: torch.Tensor, right: torch.Tensor) -> float:
    """``‖left · right‖²`` by Gram matrices, in float64."""
    rows, columns = left.double(), right.double()
    return float(((rows.T @ rows) * (columns @ columns.T)).sum())


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
