"""Rows of fused layers, cut apart and put together.

``qkv`` is q, k and v of equal size, Flux's ``linear1`` those three and the MLP; ``A`` is
shared, ``B`` is cut by rows, bit for bit. Back again, parts with the same ``A`` share it, and
others stand block-diagonally, at the sum of their ranks.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from adaptrix.convert.arrays import bits, concat_rows, take_columns, take_rows
from adaptrix.convert.diffusion.naming import Place
from adaptrix.convert.diffusion.updates import Update
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import Scale
from adaptrix.schema.tensor import LazyTensor


def split_update(update: Update, place: Place, *, split_alpha: bool) -> list[tuple[str, Update]]:
    """The update of each of ``place.paths``.

    Raises:
        ValueError: the rows do not divide as the layer's parts need.
    """
    out, width = update.b.shape[0], update.a.shape[1]
    if not place.fits((out, width)):
        tail = ", ".join(path.rpartition(".")[2] for path in place.paths)
        raise ValueError(f"{out}×{width} is not the {tail} of a model with these names")
    if len(place.paths) == 1:
        if place.swapped or (place.final_swapped and out == 2 * width):
            update = _taken(update, _halves_swapped(out))
        return [(place.paths[0], update)]
    sizes = part_sizes(place.shares, out)
    starts = np.cumsum([0, *sizes])
    rows = [slice(int(a), int(b)) for a, b in pairwise(starts)]
    if split_alpha and _is_block_diagonal(update.b, rows):
        parts = [_block(update, i, len(rows), rows[i]) for i in range(len(rows))]
    else:
        parts = [_taken(update, part) for part in rows]
    return list(zip(place.paths, parts, strict=True))


def part_sizes(shares: tuple[int, ...], out: int) -> list[int]:
    """Rows of each part of a layer of ``out`` rows.

    Raises:
        ValueError: they do not divide so.
    """
    unit, left = divmod(out, sum(shares))
    if left:
        raise ValueError(f"{out} rows do not divide as {':'.join(map(str, shares))}")
    return [share * unit for share in shares]


def _halves_swapped(rows: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    if rows % 2:
        raise ValueError(f"{rows} rows have no halves")
    return np.roll(np.arange(rows), rows // 2)


def _taken(update: Update, rows: slice | np.ndarray[tuple[int], np.dtype[np.intp]]) -> Update:
    bias, magnitude = update.bias, update.magnitude
    return replace(
        update,
        b=take_rows(update.b, rows),
        bias=None if bias is None else take_rows(bias, rows),
        magnitude=None if magnitude is None else take_rows(magnitude, rows),
    )


def _is_block_diagonal(b: LazyTensor, rows: list[slice]) -> bool:
    """Whether each part of the rows uses its own columns only."""
    if len(b.shape) != 2 or b.shape[1] % len(rows):
        return False
    rank, values = b.shape[1] // len(rows), bits(b)
    for i, part in enumerate(rows):
        others = np.delete(values[part], np.s_[i * rank : (i + 1) * rank], axis=1)
        if others.any():
            return False
    return True


def _block(update: Update, index: int, count: int, rows: slice) -> Update:
    """One part with its own ranks, whose alpha is that of the part alone."""
    rank = update.a.shape[0] // count
    own = slice(index * rank, (index + 1) * rank)
    return replace(
        _taken(update, rows),
        a=take_rows(update.a, own),
        b=take_columns(take_rows(update.b, rows), own),
        scale=Scale.from_alpha(update.scale.alpha, rank),
    )


def joined(parts: list[tuple[LazyTensor, LazyTensor] | None], sizes: list[int]) -> tuple[LazyTensor, LazyTensor]:  # fmt: skip
    """``(A, B)`` of a fused layer from its parts; None for a part without an update."""
    present = [part for part in parts if part is not None]
    first = bits(present[0][0])
    shared = all(
        a.shape == present[0][0].shape and np.array_equal(bits(a), first) for a, _ in present
    )
    a = present[0][0] if shared else concat_rows([part[0] for part in present])
    rank, out = a.shape[0], sum(sizes)

    def load() -> memoryview:
        wide = np.zeros((out, rank), dtype=bits(present[0][1]).dtype)
        row = column = 0
        for part, size in zip(parts, sizes, strict=True):
            if part is not None:
                width = part[1].shape[1]
                wide[row : row + size, column : column + width] = bits(part[1])
                column += 0 if shared else width
            row += size
        return wide.reshape(-1).view(np.uint8).data

    return a, replace(present[0][1], shape=(out, rank), load=load)
