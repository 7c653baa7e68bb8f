"""One fused update on an accelerator: a single product that reads and writes each weight once.

Widening a float16 weight in device memory would move it five times. The library's own
product adds to a half-precision matrix with float32 accumulation and rounds once, but
takes half-precision factors. So each factor is split into a high and a low half and the
products that matter are laid side by side along the rank:

    ``B·A ≈ [Bₕ Bₕ Bₗ] · [Aₕ; Aₗ; Aₕ]``

which carries 22 of float32's 24 bits; the rank trebles, and stays far below what would
make the product slower than memory. Factors are brought near 1 by powers of two first, so
that low halves do not vanish below the type's smallest number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from adaptrix.loader.factors import FusedFactors
from adaptrix.loader.tiles import Arrival

HALVES = (torch.float16, torch.bfloat16)


def split(value: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, float]:
    """``(high, low, unit)`` with ``(high + low) · unit ≈ value``; ``unit`` is a power of two."""
    largest = float(value.abs().max()) if value.numel() else 0.0
    unit = 2.0 ** math.floor(math.log2(largest)) if largest and math.isfinite(largest) else 1.0
    scaled = value / unit
    high = scaled.to(dtype)
    low = (scaled - high.to(value.dtype)).to(dtype)
    return high, low, unit


def split_pair(
    left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factors of three times the rank, in ``dtype``, and the scale of their product."""
    left_high, left_low, left_unit = split(left, dtype)
    right_high, right_low, right_unit = split(right, dtype)
    one = torch.cat((left_high, left_high, left_low), dim=1)
    two = torch.cat((right_high, right_low, right_high), dim=0)
    return one, two, left_unit * right_unit


@contextmanager
def _float32_sums() -> Iterator[None]:
    """Keep partial sums in float32; by default a split product may round them on the way."""
    settings = torch.backends.cuda.matmul
    before = (
        settings.allow_fp16_reduced_precision_reduction,
        settings.allow_bf16_reduced_precision_reduction,
        settings.allow_tf32,
    )
    settings.allow_fp16_reduced_precision_reduction = False
    settings.allow_bf16_reduced_precision_reduction = False
    settings.allow_tf32 = False
    try:
        yield
    finally:
        (
            settings.allow_fp16_reduced_precision_reduction,
            settings.allow_bf16_reduced_precision_reduction,
            settings.allow_tf32,
        ) = before


@_float32_sums()
def merge_on_device(
    before: torch.Tensor, into: torch.Tensor, factors: FusedFactors, dtype: torch.dtype
) -> Arrival:
    """Write ``before + ΔW``, rounded once to ``dtype``, to ``into``; see ``merge_tiles``."""
    left, right = factors.pair()
    wide = left.dtype
    if factors.magnitude is not None or dtype not in HALVES or into.dtype != dtype:
        total = torch.addmm(before.to(wide), left, right)
        if factors.magnitude is not None:
            lengthwise = 0 if factors.transposed else 1
            total *= (factors.magnitude / total.norm(dim=lengthwise)).unsqueeze(lengthwise)
        into.copy_(total.to(dtype))
        return _arrival(total - before.to(wide), before, into)
    one, two, unit = split_pair(left, right, dtype)
    torch.addmm(before, one, two, alpha=unit, out=into)
    return _arrival(left @ right, before, into)


def _arrival(wanted: torch.Tensor, before: torch.Tensor, into: torch.Tensor) -> Arrival:
    actual = into.to(wanted.dtype) - before.to(wanted.dtype)
    error = actual - wanted
    sums = torch.stack((wanted.square().sum(), error.square().sum(), (error * wanted).sum()))
    wanted_sq, error_sq, along = sums.tolist()
    return Arrival.of(wanted_sq, error_sq, along, changed=bool(actual.any()))
