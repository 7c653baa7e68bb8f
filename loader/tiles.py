"""One fused update, tile by tile: widen, add ``B·A``, round once, and measure what arrived.

Everything that a tile needs stays in a core's cache, so that memory sees each weight once
on its way in and once on its way out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from adaptrix.loader.checks import LOW_SURVIVAL
from adaptrix.loader.factors import FusedFactors
from adaptrix.loader.products import RightFactor
from adaptrix.loader.workers import SCRATCH_ELEMENTS, scratch

MEASURED_TILES = 4
"""Tiles of a large weight that are measured, at least: a million weights."""
_EXPONENTS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
"""Integers of the same size, and the bits of an exponent, by type."""


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

    What arrived is measured on every tile of a small weight and on some of a large one:
    rounding is the same everywhere. That every weight is finite is seen in all of them.

    Args:
        before: The pristine weight, two-dimensional, contiguous.
        into: Memory of the same shape, of ``dtype`` or of a type that holds it exactly.
        factors: The update, of the type in which to add: float32, or float64.
        dtype: What to round to.
    """
    narrow = torch.finfo(dtype).bits < torch.finfo(factors.a.dtype).bits
    if factors.magnitude is not None or not narrow:
        return _merge(before, into, factors, dtype, every=1)
    tiles = -(-before.shape[0] // _rows_of_a_tile(before))
    every = max(1, tiles // MEASURED_TILES)
    found = _merge(before, into, factors, dtype, every=every)
    if every > 1 and found.expected_norm and not (found.changed and found.survival > LOW_SURVIVAL):
        # An update of a few rows, or one of which little arrives: that is for all to say.
        return _merge(before, into, factors, dtype, every=1)
    return found


def _merge(
    before: torch.Tensor,
    into: torch.Tensor,
    factors: FusedFactors,
    dtype: torch.dtype,
    *,
    every: int,
) -> Arrival:
    """:func:`merge_tiles`, measuring each ``every``-th tile."""
    left, right = factors.pair()  # (rows, R), (R, columns)
    wide = left.dtype
    columns, step = before.shape[1], _rows_of_a_tile(before)
    update = RightFactor(right, step)
    rooms = [scratch(number, wide, columns) for number in range(3)]
    across = _column_scale(before, factors) if factors.transposed else None
    measured = _Measured(narrow=torch.finfo(dtype).bits < torch.finfo(wide).bits)
    # Every call from Python holds the interpreter, which the other workers then wait for:
    # views are made once where they can be.
    old = room = total = rooms[0][:0].view(0, columns)
    for number, (source, target, part) in enumerate(
        zip(before.split(step), into.split(step), left.split(step), strict=True)
    ):
        if len(part) != len(old):
            old, room, total = (x[: part.shape[0] * columns].view(-1, columns) for x in rooms)
        old.copy_(source)
        if number % every:
            _write(target, update.added(old, part, total), dtype)
            measured.finite = measured.finite and _is_finite(target)
            continue
        delta = update.product(part, room)
        torch.add(old, delta, out=total)
        if factors.magnitude is not None:
            rows = slice(number * step, number * step + len(part))
            total.mul_(_row_scale(total, factors.magnitude[rows]) if across is None else across)
            torch.sub(total, old, out=delta)
        _write(target, total, dtype)
        measured.changed = measured.changed or not torch.equal(target.to(before.dtype), source)
        measured.add(target, old, delta, total)
    whole = measured.wanted_sq if factors.magnitude is not None else _product_sq(left, right)
    return measured.arrival(whole, len(before))


@dataclass(slots=True)
class _Measured:
    """Sums over the tiles that were measured."""

    narrow: bool
    wanted_sq: float = 0.0
    error_sq: float = 0.0
    along: float = 0.0
    rows: int = 0
    changed: bool = False
    finite: bool = True

    def add(
        self, new: torch.Tensor, old: torch.Tensor, delta: torch.Tensor, total: torch.Tensor
    ) -> None:
        """A tile; ``old`` or ``total`` is written over."""
        missed = _missed(new, old, delta, total, narrow=self.narrow).view(-1)
        planned = delta.view(-1)
        self.error_sq += float(torch.dot(missed, missed))
        self.along += float(torch.dot(missed, planned))
        self.wanted_sq += float(torch.dot(planned, planned))
        self.rows += len(new)

    def arrival(self, wanted_sq: float, rows: int) -> Arrival:
        """Of all ``rows``, whose planned change has the square ``wanted_sq``."""
        share = self.rows / rows
        error_sq = self.error_sq / share if self.finite else math.nan
        survival = 1 + self.along / self.wanted_sq if self.wanted_sq else 0.0
        return Arrival(
            expected_norm=math.sqrt(wanted_sq),
            error=math.sqrt(error_sq) if error_sq >= 0 else math.nan,
            survival=survival if self.finite else math.nan,
            changed=self.changed,
        )


def _rows_of_a_tile(weight: torch.Tensor) -> int:
    return max(1, SCRATCH_ELEMENTS // weight.shape[1])


def _write(target: torch.Tensor, total: torch.Tensor, dtype: torch.dtype) -> None:
    target.copy_(total if target.dtype == dtype else total.to(dtype))


def _is_finite(weights: torch.Tensor) -> bool:
    """Whether no weight is infinite or not a number."""
    if math.isfinite(float(weights.sum())):
        return True
    # A sum of finite ones may overflow too: then whether an exponent is all ones.
    kind, mask = _EXPONENTS[weights.dtype]
    return int(torch.bitwise_and(weights.view(kind), mask).max()) != mask


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
    """``‖left · right‖²`` by Gram matrices, in float64; 0 where only their rounding is left.

    Adapters that cancel each other leave a sum that may even be negative.
    """
    rows, columns = left.double(), right.double()
    one, two = rows.T @ rows, columns @ columns.T
    found = float((one * two).sum())
    noise = len(one) * torch.finfo(torch.float64).eps * float(one.trace() * two.trace())
    return found if found > noise else 0.0


def _row_scale(total: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    scale: torch.Tensor = magnitude / total.norm(dim=1)
    return scale.unsqueeze(1)


def _column_scale(before: torch.Tensor, factors: FusedFactors) -> torch.Tensor | None:
    if factors.magnitude is None:
        return None
    left, right = factors.pair()
    squares = torch.zeros(before.shape[1], dtype=left.dtype)
    step = _rows_of_a_tile(before)
    for begin in range(0, before.shape[0], step):
        rows = slice(begin, begin + step)
        squares += torch.addmm(before[rows].to(left.dtype), left[rows], right).square().sum(0)
    scale: torch.Tensor = factors.magnitude / squares.sqrt()
    return scale
