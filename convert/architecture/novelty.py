"""How likely the sizes of a model are that no table has.

A configuration of which nothing is known is drawn size by size: widths are round numbers, and
a size is often another one of the same model, or a simple multiple of it. Every family that
needs the same free sizes for what was seen gets the same number; one that needs fewer of them
explains more. The shares are rough: what counts is that a coincidence of several sizes with a
known model is rare.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

_SAME, _SIMPLE = 0.6, 0.05
_MULTIPLES = frozenset(Fraction(n) for n in (2, 3, 4, 6, 8)) | frozenset(
    Fraction(1, n) for n in (2, 3, 4, 6, 8)
)
_ROUND = ((1024, 1 / 24), (256, 1 / 100), (64, 1 / 600), (16, 1 / 3000))
_ODD = 1e-4
_SMALL = ((32, 1 / 12), (256, 1 / 40))
"""Numbers of heads, and their sizes."""
_COMMON_DEPTHS = frozenset((6, 12, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 42, 48, 64, 80))
_COMMON, _OTHER = 1 / 20, 1 / 200
_WHOLE, _TAIL, _PART = 0.85, 0.08, 0.07
"""Adapters of all layers of their base, of the last ones, of others."""


def chance_of_sizes(sizes: Iterable[Fraction | int]) -> float:
    """Probability of these sizes for a model that could have any."""
    found, before = 1.0, list[Fraction]()
    for size in map(Fraction, sizes):
        found *= _chance(size, before)
        before.append(size)
    return found


def _chance(size: Fraction, before: Sequence[Fraction]) -> float:
    if size in before:
        return _SAME
    if any(size / other in _MULTIPLES for other in before):
        return _SIMPLE
    for most, share in _SMALL:
        if size <= most and size % 2 == 0:
            return share
    for unit, share in _ROUND:
        if size % unit == 0:
            return share
    return _ODD


def chance_of_layers(seen: Sequence[int], *, shift: int, layers: int | None) -> float:
    """Probability that an adapter of a base with ``layers`` layers has those of ``seen``."""
    if not seen:
        return 1.0
    last = seen[-1] - shift + 1
    count = layers or last
    chance = 1.0 if layers else (_COMMON if last in _COMMON_DEPTHS else _OTHER)
    if len(seen) >= count:
        return chance * _WHOLE
    is_tail = last == count and len(seen) == seen[-1] - seen[0] + 1
    return chance * (_TAIL if is_tail else _PART) / max(1, count - 1)
