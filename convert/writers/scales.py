"""Scales in the words of a format that stores alpha: ``s = alpha/r`` or ``alpha/√r``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adaptrix.schema.adapter import AdaptedModule, ScaleRule


@dataclass(frozen=True, slots=True)
class Alphas:
    """Alpha of every module under one rule.

    Attributes:
        rslora: Whether the rule is ``alpha/√r``.
        values: Alpha by module path.
        max_error: Largest difference between a scale and what its alpha gives back.
    """

    rslora: bool
    values: dict[str, float]
    max_error: float


def alphas_of(modules: Sequence[AdaptedModule]) -> Alphas:
    """Alpha of each module such that the reader computes the same float64 scale.

    rsLoRA is kept when every module follows it; otherwise ``alpha = s·r``, moved by single
    units in the last place until the division gives ``s`` back.
    """
    rslora = all(m.scale.rule is ScaleRule.ALPHA_OVER_SQRT_R for m in modules) and bool(modules)
    values: dict[str, float] = {}
    error = 0.0
    for module in modules:
        divisor = math.sqrt(module.rank) if rslora else float(module.rank)
        alpha = alpha_for(module, divisor)
        values[module.path] = alpha
        error = max(error, abs(alpha / divisor - module.scale.value))
    return Alphas(rslora, values, error)


def alpha_for(module: AdaptedModule, divisor: float) -> float:
    """The alpha whose quotient by ``divisor`` is the module's scale, or the nearest one."""
    scale = module.scale
    if scale.alpha / divisor == scale.value:
        return scale.alpha
    guess = scale.value * divisor
    candidates = [guess]
    up = down = guess
    for _ in range(3):
        up, down = math.nextafter(up, math.inf), math.nextafter(down, -math.inf)
        candidates += [up, down]
    rounded = float(round(guess))
    return min([rounded, *candidates], key=lambda alpha: abs(alpha / divisor - scale.value))


def most_common(values: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """The most frequent pair, the smaller one of equals."""
    counts = Counter(values)
    return min(counts, key=lambda pair: (-counts[pair], pair))


def number(value: float) -> int | float:
    """An int when it is integral: readers in Go and C++ parse alpha as an integer."""
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else value
