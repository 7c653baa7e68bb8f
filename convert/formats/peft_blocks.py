"""GraLoRA and LoKr without low-rank factors: block structure as one pair of factors.

Sources: PEFT 0.21, ``tuners/gralora/layer.py`` (Jung et al. 2025) and ``tuners/lokr/layer.py``.
"""

from __future__ import annotations

import math

from adaptrix.convert.arrays import Bits, bits, concat_rows, content, to_numpy_f64
from adaptrix.convert.computed import Array, computed
from adaptrix.convert.formats.peft_config import MAX_RANK
from adaptrix.convert.numeric import np
from adaptrix.schema.tensor import DType, LazyTensor

_PRECISION = {DType.F64: 2.0**-52, DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}
"""Spacing of the values just above 1: singular values below it are rounding."""


def gralora_pair(a: LazyTensor, b: LazyTensor) -> tuple[LazyTensor, LazyTensor]:
    """``A (k, in/k, r)`` and ``B (k, r, out/k)`` as a pair of rank ``k·r``.

    Each of the ``k`` parts of the input gives ``r`` numbers, a ``k``-th of which goes to each
    part of the output: latent ``(j, n, s)`` is number ``j·r/k + s`` of input part ``n`` and
    number ``n·r/k + s`` of output part ``j``. Copies and zeros only.

    Raises:
        ValueError: the shapes do not fit.
    """
    if len(a.shape) != 3 or len(b.shape) != 3 or a.shape[0] != b.shape[0]:
        raise ValueError("blocks of three dimensions are wanted")
    parts, wide, rank = a.shape
    tall = b.shape[2]
    if b.shape[1] != rank or rank % parts or not rank:
        raise ValueError("the rank must be the same and a multiple of the number of blocks")
    share, total = rank // parts, parts * rank
    latent = np.arange(total).reshape(parts, parts, share)  # (j, n, s)

    def down() -> memoryview:
        stored = bits(a)
        full = np.zeros((total, parts * wide), dtype=stored.dtype)
        for n in range(parts):
            full[latent[:, n].reshape(-1), n * wide : (n + 1) * wide] = stored[n].T
        return content(full)

    def up() -> memoryview:
        stored = bits(b)
        full = np.zeros((parts * tall, total), dtype=stored.dtype)
        for j in range(parts):
            full[j * tall : (j + 1) * tall, latent[j].reshape(-1)] = stored[j].T
        return content(full)

    return (
        LazyTensor(dtype=a.dtype, shape=(total, parts * wide), source=a.source, load=down),
        LazyTensor(dtype=b.dtype, shape=(parts * tall, total), source=b.source, load=up),
    )


def beside(one: LazyTensor, other: LazyTensor) -> LazyTensor:
    """``(m, p)`` and ``(m, q)`` next to each other: ``(m, p + q)``."""
    if one.shape[0] != other.shape[0] or one.dtype is not other.dtype:
        raise ValueError(f"{list(one.shape)} and {list(other.shape)} do not stand side by side")

    def load() -> memoryview:
        both: list[Bits] = [bits(one), bits(other)]
        return content(np.concatenate(both, axis=1))

    shape = (one.shape[0], one.shape[1] + other.shape[1])
    return LazyTensor(dtype=one.dtype, shape=shape, source=one.source, load=load)


def on_top(one: LazyTensor, other: LazyTensor) -> LazyTensor:
    """``(m, n)`` above ``(k, n)``."""
    if one.shape[1:] != other.shape[1:] or one.dtype is not other.dtype:
        raise ValueError(f"{list(one.shape)} and {list(other.shape)} do not stand on each other")
    return concat_rows((one, other))


def full_kronecker(one: LazyTensor, two: LazyTensor) -> tuple[LazyTensor, LazyTensor] | str:
    """``w1 ⊗ w2`` of full matrices as a pair, when their ranks are low enough to say it so.

    The rank of a Kronecker product is the product of the ranks. What is cut off is no larger
    than the rounding of the stored values. Reads the values.
    """
    left, right = _low_rank(one), _low_rank(two)
    if left is None or right is None:
        return "a factor of LoKr is zero or not finite"
    rank = left[0].shape[1] * right[0].shape[1]
    out, into = one.shape[0] * two.shape[0], one.shape[1] * two.shape[1]
    if rank > MAX_RANK or rank * (out + into) >= out * into:
        return (
            f"both factors of LoKr are full: the update has rank {rank} of {min(out, into)}, "
            "as a pair it would be larger than the weight itself"
        )
    (up1, down1), (up2, down2) = left, right
    return (
        computed((rank, into), one.source, lambda: np.kron(down1, down2)),
        computed((out, rank), one.source, lambda: np.kron(up1, up2)),
    )


def _low_rank(matrix: LazyTensor) -> tuple[Array, Array] | None:
    """``U·√Σ (m, r)`` and ``√Σ·Vᵀ (r, n)`` at the numerical rank."""
    values = to_numpy_f64(matrix)
    if not values.size or not np.isfinite(values).all() or not values.any():
        return None
    left, sizes, right = np.linalg.svd(values, full_matrices=False)
    limit = math.sqrt(max(values.shape)) * _PRECISION.get(matrix.dtype, 2.0**-23) * sizes[0]
    rank = int((sizes > limit).sum())
    roots = np.sqrt(sizes[:rank])
    return left[:, :rank] * roots, roots[:, None] * right[:rank]
