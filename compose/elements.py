"""Updates entry by entry, in a basis or densely, for methods that look at single entries.

A source hands out the same entries in row blocks as often as asked, so that a dense update
of full size never stands in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from adaptrix.compose.inputs import Share

Blocks = Callable[[], Iterator[list[torch.Tensor]]]
Statistic = Callable[[list[torch.Tensor]], torch.Tensor]
DENSE_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Elements:
    """The entries of T updates.

    Attributes:
        shape: Rows and columns.
        blocks: Starts a pass over the rows; each step gives T blocks of the same rows.
        generators: Makes fresh random generators, one per update.
    """

    shape: tuple[int, int]
    blocks: Blocks
    generators: Callable[[], list[torch.Generator]]

    def cut(self, statistic: Statistic, density: float) -> float:
        """The value that the greatest ``density`` share of ``statistic`` reaches.

        Exact: float32 bit patterns of non-negative numbers are in the order of the numbers,
        so two passes with a histogram of 2¹⁶ bins find the value itself.
        """
        wanted = min(self.count, max(1, math.ceil(density * self.count - 1e-9)))
        if wanted == self.count:
            return 0.0
        high, above = self._bin(statistic, wanted, None)
        low, _ = self._bin(statistic, wanted - above, high)
        bits = torch.tensor((high << 16) | low, dtype=torch.int64)
        return float(bits.to(torch.int32).view(torch.float32))

    @property
    def count(self) -> int:
        """Entries of one update."""
        return self.shape[0] * self.shape[1]

    def _bin(self, statistic: Statistic, wanted: int, high: int | None) -> tuple[int, int]:
        """The bin in which the ``wanted``-th greatest value lies, and how many lie above it."""
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for parts in self.blocks():
            bits = statistic(parts).float().contiguous().view(torch.int32).flatten().long()
            keys = bits >> 16 if high is None else bits[(bits >> 16) == high] & 0xFFFF
            counts += torch.bincount(keys, minlength=1 << 16)
        reached = counts.flip(0).cumsum(0)
        index = int(torch.searchsorted(reached, wanted))
        found = (1 << 16) - 1 - index
        return found, int(reached[index] - counts[found])


def in_basis(parts: Sequence[torch.Tensor], generators: Callable[[], list[torch.Generator]]) -> Elements:  # fmt: skip
    """Entries of cores: one block."""
    # Single precision decides who is kept; the values stay as they are.
    held = list(parts)
    rows, columns = held[0].shape
    return Elements(shape=(rows, columns), blocks=lambda: iter([held]), generators=generators)


def dense(shares: Sequence[Share], generators: Callable[[], list[torch.Generator]]) -> Elements:
    """Entries of the updates themselves, float32, multiplied out block by block."""
    ups, downs = [s.up().float() for s in shares], [s.down().float() for s in shares]

    def blocks() -> Iterator[list[torch.Tensor]]:
        for start in range(0, ups[0].shape[0], DENSE_ROWS):
            rows = slice(start, start + DENSE_ROWS)
            yield [up[rows] @ down for up, down in zip(ups, downs, strict=True)]

    shape = (ups[0].shape[0], downs[0].shape[1])
    return Elements(shape=shape, blocks=blocks, generators=generators)


def range_of(rows: Callable[[], Iterator[torch.Tensor]], shape: tuple[int, int], rank: int) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """``B (out, k)``, ``A (k, in)`` near the best rank-``k`` form of a matrix given by rows.

    A randomised range finder with two power iterations (Halko, Martinsson and Tropp 2011,
    algorithm 4.4) with a fixed start; four passes over the rows.
    """
    width = min(rank + 16, *shape)
    start = torch.randn(shape[1], width, generator=torch.Generator().manual_seed(0)).double()
    for _ in range(3):
        image = torch.cat([block.double() @ start for block in rows()])
        basis = torch.linalg.qr(image)[0]
        start, offset = torch.zeros_like(start), 0
        for block in rows():
            start += block.double().T @ basis[offset : offset + len(block)]
            offset += len(block)
    u, sizes, v = torch.linalg.svd(start.T, full_matrices=False)
    roots = sizes[:rank].sqrt()
    return (basis @ u[:, :rank]) * roots, roots[:, None] * v[:rank]
