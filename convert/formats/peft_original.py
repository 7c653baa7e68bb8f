"""Methods whose update is a pair of factors once the base weights are at hand.

======  ==========================================================================  ======
HRA     ``W·(H - 1)`` with ``H = Π(1 - 2u·uᵀ) = 1 - U·T·Uᵀ``: ``B = -W·U·T``, ``A = Uᵀ``  rank r
PiSSA   trained on ``W`` without its ``r`` largest singular components              rank 2r
OLoRA   trained on ``W - s·Q_r·R_r`` of its QR decomposition                        rank 2r
KaSA    trained on ``W`` without its ``r`` smallest singular components             rank 2r
======  ==========================================================================  ======

On ``W`` itself, the last three add what they were trained with less what was taken off.
Sources: PEFT 0.21, ``tuners/hra/layer.py``, ``tuners/lora/layer.py``, ``tuners/lora/variants.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.computed import Array, computed
from adaptrix.convert.draft import Factors
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import Scale
from adaptrix.schema.tensor import LazyTensor

METHODS = ("pissa", "olora", "kasa")
"""Initialisations that can be done again from the base weights alone."""


def is_repeatable(residual: str) -> bool:
    """Whether what ``init_lora_weights`` took off the base can be computed again."""
    return residual in METHODS  # pissa_niter_k draws random numbers


def on_original(pair: Factors, weight: LazyTensor, residual: str) -> Factors | None:
    """``s·B·A`` less what was taken off ``weight``, as one pair; None without a scale."""
    if pair.scale is None or pair.scale.value == 0 or pair.magnitude is not None:
        return None
    scale, rank = pair.scale.value, pair.rank

    @cache
    def taken() -> tuple[Array, Array]:
        left, right = _TAKEN[residual](to_numpy_f64(weight), rank)
        return (left, right) if residual == "olora" else (left / scale, right)

    a = computed(
        (2 * rank, pair.a.shape[1]),
        pair.a.source,
        lambda: np.concatenate([to_numpy_f64(pair.a), taken()[1]]),
    )
    b = computed(
        (pair.b.shape[0], 2 * rank),
        pair.b.source,
        lambda: np.concatenate([to_numpy_f64(pair.b), -taken()[0]], axis=1),
    )
    return replace(pair, a=a, b=b, scale=Scale.absolute(scale, 2 * rank))


def _largest(weight: Array, rank: int) -> tuple[Array, Array]:
    left, sizes, right = np.linalg.svd(weight, full_matrices=False)
    return left[:, :rank] * sizes[:rank], right[:rank]


def _smallest(weight: Array, rank: int) -> tuple[Array, Array]:
    left, sizes, right = np.linalg.svd(weight, full_matrices=False)
    return left[:, -rank:] * sizes[-rank:], right[-rank:]


def _triangular(weight: Array, rank: int) -> tuple[Array, Array]:
    left, right = np.linalg.qr(weight)
    return left[:, :rank], right[:rank]


_TAKEN: dict[str, Callable[[Array, int], tuple[Array, Array]]] = {
    "pissa": _largest, "kasa": _smallest, "olora": _triangular,
}  # fmt: skip


def reflected(u: LazyTensor, weight: LazyTensor) -> tuple[LazyTensor, LazyTensor]:
    """``A (r, in)``, ``B (out, r)`` of HRA's ``hra_u (in, r)``."""
    width, rank = u.shape

    @cache
    def unit() -> Array:
        columns = to_numpy_f64(u)
        unit_columns: Array = columns / np.linalg.norm(columns, axis=0)
        return unit_columns

    def up() -> Array:
        columns = unit()
        mix = np.zeros((rank, rank))
        for j in range(rank):
            mix[j, j] = 2
            mix[:j, j] = -2 * mix[:j, :j] @ (columns[:, :j].T @ columns[:, j])
        product: Array = -to_numpy_f64(weight) @ columns @ mix
        return product

    a = computed((rank, width), u.source, lambda: unit().T)
    return a, computed((weight.shape[0], rank), u.source, up)
