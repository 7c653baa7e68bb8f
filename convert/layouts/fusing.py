"""Cutting a fused pair into its parts, and joining parts into one pair.

Cutting shares ``A`` and takes rows of ``B``: exact to the bit at the same rank. Joining
parts that share one ``A`` is its inverse; otherwise ``A`` is the parts' stacked and ``B`` has
their rows in their own columns, rank ``Σr``: the same update from copies alone. Rows of a
part that is not adapted stay zero. Magnitudes and biases go with their rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptrix.convert.arrays import bits, content, take_columns, take_rows, to_numpy_f64
from adaptrix.convert.computed import computed
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.row_orders import Rows
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import Scale, ScaleRule
from adaptrix.schema.tensor import LazyTensor

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Joined:
    """One pair from several.

    Attributes:
        pair: The pair.
        exact: Whether only copies (and exact widenings) were made.
    """

    pair: Factors
    exact: bool = True


class CannotJoin(ValueError):
    """Parts that one pair cannot hold; says why."""


def cut(pair: Factors, rows: Rows, paths: Mapping[str, str]) -> tuple[Factors, ...]:
    """One pair per part in ``paths``: ``B[rows]``, everything else shared."""
    return tuple(
        replace(
            pair,
            path=path,
            b=take_rows(pair.b, _as_slice(rows[part])),
            magnitude=_rows(pair.magnitude, rows[part]),
            bias_delta=_rows(pair.bias_delta, rows[part]),
        )
        for part, path in paths.items()
    )


def _rows(tensor: LazyTensor | None, rows: npt.NDArray[np.intp]) -> LazyTensor | None:
    return None if tensor is None else take_rows(tensor, _as_slice(rows))


def _as_slice(rows: npt.NDArray[np.intp]) -> slice | npt.NDArray[np.intp]:
    """Neighbouring rows as a slice: those need not be copied."""
    whole = rows.size and rows[-1] - rows[0] + 1 == rows.size and bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows


def join(path: str, parts: Mapping[str, Factors], rows: Rows, total: int, *, read: bool) -> Joined:
    """One pair of ``total`` rows from the parts that are there.

    Args:
        path: Path of the fused module.
        parts: Pairs by part.
        rows: Where each part's rows go.
        total: Rows of the fused weight.
        read: Whether values may be read to see that parts share one ``A``.

    Raises:
        CannotJoin: their inputs differ, or a magnitude is missing.
    """
    present = [(part, rows[part]) for part in rows if part in parts]
    pairs = [parts[part] for part, _ in present]
    first = pairs[0]
    if any(pair.a.shape[1:] != first.a.shape[1:] for pair in pairs):
        raise CannotJoin("its parts read inputs of different sizes")
    places = [place for _, place in present]
    whole = sum(len(place) for place in places) == total
    if not whole and any(pair.magnitude is not None for pair in pairs):
        raise CannotJoin("a magnitude of some of its parts; the others' are in the base alone")
    shared = all(same(first.a, pair.a, read=read) for pair in pairs[1:])
    factors, exact = _ratios(pairs)
    a = first.a if shared else _stacked([pair.a for pair in pairs])
    columns = [0] * len(pairs) if shared else _starts(pairs)
    return Joined(
        replace(
            first,
            path=path,
            a=a,
            b=_scattered(pairs, places, columns, factors, (total, a.shape[0])),
            scale=_scale(first, a.shape[0]),
            magnitude=_vector([p.magnitude for p in pairs], places, total, [1.0] * len(pairs)),
            bias_delta=_vector([p.bias_delta for p in pairs], places, total, factors),
        ),
        exact,
    )


def same(one: LazyTensor, two: LazyTensor, *, read: bool) -> bool:
    """Whether two tensors are one; only a look at the values tells when they are two files'."""
    if one is two:
        return True
    if one.shape != two.shape or one.dtype is not two.dtype or not read:
        return False
    return bytes(one.load()) == bytes(two.load())


def trimmed(pair: Factors) -> Factors:
    """Without the columns of ``B`` that are zero, and their rows of ``A``; reads ``B``.

    What was joined from separate pairs comes apart into those again.
    """
    used = np.flatnonzero((to_numpy_f64(pair.b) != 0).any(axis=0))
    if used.size in (0, pair.rank):
        return pair
    scale = pair.scale
    return replace(
        pair,
        a=take_rows(pair.a, _as_slice(used)),
        b=take_columns(pair.b, used),
        scale=None if scale is None else scale_at(scale, int(used.size)),
    )


def scale_at(scale: Scale, rank: int) -> Scale:
    """The same scale under the same rule at another rank."""
    root = scale.rule is ScaleRule.ALPHA_OVER_SQRT_R
    alpha = scale.value * (math.sqrt(rank) if root else rank)
    return replace(scale, alpha=alpha, rank=rank)


def _scale(first: Factors, rank: int) -> Scale | None:
    if first.scale is None or rank == first.scale.rank:
        return first.scale
    return scale_at(first.scale, rank)


def _ratios(pairs: Sequence[Factors]) -> tuple[list[float], bool]:
    """What each part is multiplied by to have the first one's scale."""
    base = pairs[0].scale
    if base is None or any(pair.scale is None for pair in pairs):
        return [1.0] * len(pairs), True
    if base.value == 0:
        raise CannotJoin("a part of scale zero")
    found = [pair.scale.value / base.value for pair in pairs if pair.scale is not None]
    return found, all(math.frexp(ratio)[0] in (0.5, 0.0) for ratio in found)


def _starts(pairs: Sequence[Factors]) -> list[int]:
    return [int(n) for n in np.cumsum([0, *(pair.rank for pair in pairs[:-1])])]


def _stacked(tensors: Sequence[LazyTensor]) -> LazyTensor:
    first = tensors[0]
    shape = (sum(t.shape[0] for t in tensors), *first.shape[1:])
    if all(t.dtype is first.dtype for t in tensors):

        def load() -> bytes:
            return b"".join(t.load() for t in tensors)

        return replace(first, shape=shape, load=load)
    return computed(shape, first.source, lambda: np.concatenate([to_numpy_f64(t) for t in tensors]))


def _scattered(
    pairs: Sequence[Factors],
    places: Sequence[npt.NDArray[np.intp]],
    columns: Sequence[int],
    factors: Sequence[float],
    shape: tuple[int, int],
) -> LazyTensor:
    """``B`` with each part at its rows and columns, zeros elsewhere."""
    first = pairs[0].b
    plain = all(p.b.dtype is first.dtype for p in pairs) and all(f == 1.0 for f in factors)

    def fill() -> npt.NDArray[np.generic]:
        wide = np.zeros(shape, dtype=bits(first).dtype if plain else np.float64)
        for pair, place, column, factor in zip(pairs, places, columns, factors, strict=True):
            block = bits(pair.b) if plain else to_numpy_f64(pair.b) * factor
            wide[place, column : column + pair.rank] = block
        return wide

    if plain:
        return replace(first, shape=shape, load=lambda: content(fill()))
    return computed(shape, first.source, fill)


def _vector(
    tensors: Sequence[LazyTensor | None],
    places: Sequence[npt.NDArray[np.intp]],
    total: int,
    factors: Sequence[float],
) -> LazyTensor | None:
    """One value per row: magnitudes or biases of the parts, zeros elsewhere."""
    present = [t for t in tensors if t is not None]
    if not present:
        return None
    if len(present) != len(tensors) and any(t.shape != (t.count,) for t in present):
        raise CannotJoin("a magnitude or bias of some of its parts")
    first = present[0]
    plain = all(t.dtype is first.dtype for t in present) and all(f == 1.0 for f in factors)

    def fill() -> npt.NDArray[np.generic]:
        wide = np.zeros(total, dtype=bits(first).dtype if plain else np.float64)
        for tensor, place, factor in zip(tensors, places, factors, strict=True):
            if tensor is not None:
                flat = bits(tensor) if plain else to_numpy_f64(tensor) * factor
                wide[place] = flat.reshape(-1)
        return wide

    if plain:
        return replace(first, shape=(total,), load=lambda: content(fill()))
    return computed((total,), first.source, fill)
