"""Factors that are computed: exact algebra in float64, one rounding to float32.

Products of two float16 or bfloat16 numbers fit into float32, so for those the rounding
changes nothing. Values are computed when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from adaptrix.convert.arrays import content, to_numpy_f64
from adaptrix.convert.numeric import np
from adaptrix.schema.tensor import DType, LazyTensor

if TYPE_CHECKING:
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[np.float64]"


def computed(
    shape: tuple[int, ...], source: str, compute: Callable[[], npt.NDArray[Any]]
) -> LazyTensor:
    """A float32 tensor of ``shape`` whose values ``compute`` yields on demand."""

    def load() -> memoryview:
        with np.errstate(over="ignore"):  # what overflows is found when values are checked
            return content(compute().astype("<f4"))

    return LazyTensor(dtype=DType.F32, shape=shape, source=source, load=load)


def product(a: LazyTensor, b: LazyTensor) -> LazyTensor:
    """``a (m, k)`` times ``b (k, n)``."""
    shape = (a.shape[0], b.shape[1])
    return computed(shape, a.source, lambda: to_numpy_f64(a) @ to_numpy_f64(b))


def times(tensor: LazyTensor, factor: float) -> LazyTensor:
    """``factor`` times every element."""
    return computed(tensor.shape, tensor.source, lambda: factor * to_numpy_f64(tensor))


def scaled_rows(matrix: LazyTensor, factors: LazyTensor) -> LazyTensor:
    """``diag(factors)·matrix`` for ``factors (m,)`` or ``(m, 1)`` and ``matrix (m, n)``."""
    return computed(
        matrix.shape,
        matrix.source,
        lambda: to_numpy_f64(factors).reshape(-1, 1) * to_numpy_f64(matrix),
    )


def scaled_columns(matrix: LazyTensor, factors: LazyTensor) -> LazyTensor:
    """``matrix·diag(factors)`` for ``matrix (m, n)`` and ``factors (n,)`` or ``(n, 1)``."""
    return computed(
        matrix.shape,
        matrix.source,
        lambda: to_numpy_f64(matrix) * to_numpy_f64(factors).reshape(1, -1),
    )


def kronecker(one: LazyTensor, two: LazyTensor) -> LazyTensor:
    """Kronecker product of two matrices."""
    shape = (one.shape[0] * two.shape[0], one.shape[1] * two.shape[1])
    return computed(shape, one.source, lambda: np.kron(to_numpy_f64(one), to_numpy_f64(two)))


def beside_identity(size: int, matrix: LazyTensor) -> LazyTensor:
    """``I ⊗ matrix`` with an identity of ``size``: copies on the diagonal."""
    shape = (size * matrix.shape[0], size * matrix.shape[1])
    return computed(shape, matrix.source, lambda: np.kron(np.eye(size), to_numpy_f64(matrix)))


def row_products(one: LazyTensor, two: LazyTensor) -> LazyTensor:
    """All products of a column of ``one (m, p)`` with one of ``two (m, q)``: ``(m, p·q)``.

    The row-wise Khatri-Rao product, by which ``(A·B)∘(C·D)`` is one pair of rank ``p·q``.
    """
    shape = (one.shape[0], one.shape[1] * two.shape[1])

    def compute() -> Array:
        left, right = to_numpy_f64(one), to_numpy_f64(two)
        return (left[:, :, None] * right[:, None, :]).reshape(shape)

    return computed(shape, one.source, compute)


def column_products(one: LazyTensor, two: LazyTensor) -> LazyTensor:
    """All products of a row of ``one (p, n)`` with one of ``two (q, n)``: ``(p·q, n)``."""
    shape = (one.shape[0] * two.shape[0], one.shape[1])

    def compute() -> Array:
        left, right = to_numpy_f64(one), to_numpy_f64(two)
        return (left[:, None, :] * right[None, :, :]).reshape(shape)

    return computed(shape, one.source, compute)
