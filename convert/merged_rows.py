"""Merged linear layers: one A block and one row block of B per enabled part.

loralib's ``MergedLinear`` and LitGPT's ``LoRAQKVLinear`` keep ``A (n·r, in)`` and
``B (Σ rows of the enabled parts, r)``: part *i* is ``B_i (rows_i, r)`` times
``A[i·r:(i+1)·r]``; parts that are not enabled are absent, their update is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from adaptrix.convert.arrays import bits, content, take_rows
from adaptrix.convert.draft import Factors
from adaptrix.convert.numeric import np
from adaptrix.schema.tensor import LazyTensor

PARTS = ("q", "k", "v")
Enabled = tuple[str, ...]


def blocks_of(pair: Factors) -> int:
    """How many parts are enabled: ``A`` has that many blocks of ``B``'s rank; 0 for none."""
    if len(pair.a.shape) != 2 or len(pair.b.shape) != 2 or not pair.b.shape[1]:
        return 0
    blocks, rest = divmod(pair.a.shape[0], pair.b.shape[1])
    return 0 if rest else blocks


def enabled_parts(count: int, rows: int, sizes: Sequence[int]) -> list[Enabled]:
    """Every choice of ``count`` of q, k, v whose ``sizes`` add up to ``rows``."""
    known = dict(zip(PARTS, sizes, strict=True))
    return [c for c in combinations(PARTS, count) if sum(known[p] for p in c) == rows]


def separate(pair: Factors, enabled: Enabled, sizes: Sequence[int]) -> dict[str, Factors]:
    """One pair per enabled part: its block of ``A``, its rows of ``B``. Copies only."""
    known, rank = dict(zip(PARTS, sizes, strict=True)), pair.b.shape[1]
    found, row = {}, 0
    for index, part in enumerate(enabled):
        a = take_rows(pair.a, slice(index * rank, (index + 1) * rank))
        b = take_rows(pair.b, slice(row, row + known[part]))
        found[part] = replace(pair, a=a, b=b)
        row += known[part]
    return found


def block_diagonal(b: LazyTensor, blocks: Sequence[int], total: int) -> LazyTensor:
    """``B (total·o, n·r)`` from ``B (n·o, r)``: block ``i`` at rows ``blocks[i]·o``.

    With ``A (n·r, in)`` as it stands, that is the merged layer's update as one pair.
    """
    rank = b.shape[1]
    height = b.shape[0] // len(blocks)
    shape = (total * height, len(blocks) * rank)

    def load() -> memoryview:
        stored = bits(b)
        wide = np.zeros(shape, dtype=stored.dtype)
        for index, block in enumerate(blocks):
            rows = slice(block * height, (block + 1) * height)
            columns = slice(index * rank, (index + 1) * rank)
            wide[rows, columns] = stored[index * height : (index + 1) * height]
        return content(wide)

    return replace(b, shape=shape, load=load)
