"""llama.cpp's stacked experts as one pair per expert, ``gate`` and ``up`` together again.

The inverse of :mod:`adaptrix.convert.writers.stacked_experts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.arrays import reshape, row_blocks
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.experts import slice_of
from adaptrix.convert.layouts.fusing import CannotJoin, join
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.stacked_experts import PARTS
from adaptrix.schema.adapter import ModuleKind
from adaptrix.schema.report import Problem

MAX_EXPERTS = 1024
_HALVES = PARTS["gate_up_proj"]


def sliced(pair: Factors) -> list[Factors]:
    """One pair per expert of ``a (E, r, in)`` and ``b (E, out, r)``; any other as it is."""
    a, b = pair.a.shape, pair.b.shape
    if ".experts." not in pair.path or len(a) != 3 or len(b) != 3:
        return [pair]
    if (a[0], a[1]) != (b[0], b[2]) or not 0 < a[0] <= MAX_EXPERTS:
        return [pair]
    downs = row_blocks(reshape(pair.a, (a[0] * a[1], a[2])), a[0])
    ups = row_blocks(reshape(pair.b, (b[0] * b[1], b[2])), b[0])
    return [
        replace(pair, path=f"{pair.path}.{expert}", a=down, b=up, kind=ModuleKind.PARAMETER)
        for expert, (down, up) in enumerate(zip(downs, ups, strict=True))
    ]


def joined(factors: Sequence[Factors], *, read: bool) -> tuple[list[Factors], list[Problem]]:
    """``gate_proj`` and ``up_proj`` of each expert as one pair of ``gate_up_proj``.

    Args:
        factors: Pairs with their scales.
        read: Whether values may be read to see that two share one ``A``.
    """
    found: list[Factors] = []
    problems: list[Problem] = []
    halves: dict[str, dict[str, Factors]] = {}
    for pair in factors:
        part = slice_of(pair.path) if pair.kind is ModuleKind.PARAMETER else None
        container, _, name = part[0].rpartition(".") if part else ("", "", "")
        if part is None or name not in _HALVES:
            found.append(pair)
        else:
            halves.setdefault(f"{container}.gate_up_proj.{part[1]}", {})[name] = pair
    counts: dict[str, Counter[str]] = {}
    for path, parts in halves.items():
        counts.setdefault(path.rpartition(".")[0], Counter()).update(parts.keys())
    for path, count in counts.items():
        if len(set(count.values())) > 1:
            message = f"factors for {count[_HALVES[0]]} and {count[_HALVES[1]]} experts"
            problems.append(Problem.of("shape_mismatch", message, where=path))
    for path, parts in halves.items():
        height = next(iter(parts.values())).b.shape[0]
        rows = {name: np.arange(n * height, (n + 1) * height) for n, name in enumerate(_HALVES)}
        reason = ""
        if any(pair.b.shape[0] != height for pair in parts.values()):
            reason = "its parts have different numbers of rows"
        else:
            try:
                found.append(join(path, parts, rows, 2 * height, read=read).pair)
            except CannotJoin as error:
                reason = str(error)
        if reason:
            problems.append(Problem.of("shape_mismatch", reason, where=path))
            found += parts.values()
    return found, problems
